"""Queries that write, read other files, never end, need too much memory, or are not SQL."""

from itertools import product

from cli_builders import call

from corpus.cases import Case
from corpus.mutations import pick
from corpus.scenes import RUN
from esper_ray.nissa.log.sql import EventDatabase
from esper_ray.nissa.runs.run_directory import RunDirectory

INPUTS = (RUN,)
TABLES = ("outcome", "round", "gate", "env_epoch", "seed_transition", "decision")
WRITES = (
    "DELETE FROM {t}", "DROP TABLE {t}", "DROP VIEW {t}", "UPDATE {t} SET round = 1", "INSERT INTO {t} VALUES (1)",
    "CREATE TABLE x AS SELECT * FROM {t}", "CREATE VIEW x AS SELECT * FROM {t}", "ALTER TABLE {t} RENAME TO x",
    "COPY {t} TO '{f}/x.csv'", "COPY (SELECT * FROM {t}) TO '{f}/x.parquet' (FORMAT parquet)", "TRUNCATE {t}",
    "EXPORT DATABASE '{f}/x'", "CREATE MACRO f(a) AS (SELECT count(*) FROM {t})", "EXPLAIN ANALYZE DELETE FROM {t}",
    "EXPLAIN ANALYZE CREATE TABLE x AS SELECT * FROM {t}", "EXPLAIN DROP VIEW {t}", "CREATE INDEX i ON {t} (seq)",
    "SELECT 1; DELETE FROM {t}", "SELECT * FROM {t}; SELECT 1", "BEGIN", "COMMIT", "CHECKPOINT", "VACUUM {t}",
    "EXPLAIN (FORMAT json) INSERT INTO {t} VALUES (1)", "WITH a AS (SELECT 1) DELETE FROM {t}",
    "CALL pragma_version()", "explain/**/analyze create table x as select 1",
    "EXPLAIN ANALYZE COPY {t} TO '{f}/x.csv'", "PRAGMA database_list",
)  # fmt: skip
FILES = (
    "SELECT * FROM read_csv('{p}')", "SELECT * FROM read_text('{p}')", "SELECT * FROM read_blob('{p}')", "FROM '{p}'",
    "SELECT * FROM read_json('{p}')", "SELECT * FROM read_parquet('{p}')", "SELECT * FROM glob('{f}/*')",
    "SELECT * FROM sniff_csv('{p}')", "SELECT (SELECT content FROM read_text('{p}')) FROM {t}",
    "FROM read_csv_auto('{p}')", "ATTACH '{f}/x.db'", "ATTACH '{p}' AS y (READ_ONLY)", "LOAD httpfs", "INSTALL httpfs",
    "USE memory", "FORCE INSTALL x", "SET enable_external_access = true", "SET lock_configuration = false",
    "RESET memory_limit", "SET threads = 99", "SELECT * FROM parquet_metadata('{p}')",
    "SELECT * FROM parquet_schema('{p}')", "SELECT getenv('HOME')", "PRAGMA memory_limit='1TB'",
    "CREATE SECRET s (TYPE S3)", "IMPORT DATABASE '{f}'", "SET temp_directory = '{f}'",
    "SELECT * FROM sqlite_scan('{p}', 'x')", "SELECT * FROM query('DELETE FROM {t}')", "SELECT * FROM rows",
    "DETACH memory", "SELECT * FROM read_ndjson_objects('{p}')", "SELECT * FROM kinds, {t}",
    "PREPARE x AS DELETE FROM {t}", "EXECUTE x", "SELECT now(), * FROM read_csv('{p}')",
)  # fmt: skip
PLACES = (
    "/etc/passwd",
    "run/manifest.json",
    "/proc/self/environ",
    "http://127.0.0.1:9/x",
    "s3://a/b",
    "/dev/zero",
    "*",
)
WRONG = (
    "", " ", ";", "/**/", "/*", "SELECT", "SELECT * FROM", "SELEC 1", "SELECT nothing FROM {t}", "FROM nothing",
    "SELECT 'x", 'SELECT "x', "SELECT (", "SELECT 1 AS", "SELECT * FROM {t} WHERE", "SELECT 'a'::INT", "SELECT $1",
    "?", "SELECT ?", "SELECT error('x')", "SELECT x'zz'", "SELECT '\ud800'", "SELECT 1 FROM {t} GROUP BY 2", "\x00",
    "SELECT \x00", "SELECT 10000000000::INT", "SELECT 1 // 'a'", "SELECT date '2024-13-01'",
    "SELECT * FROM {t} NATURAL", "VALUES", "{t}", "SELECT sum(kind_) FROM {t}", "SELECT nosuchfunction(seq) FROM {t}",
    "SELECT * FROM {t} LIMIT -1", "SELECT [1,2][" * 50,
    "SELECT " + "1+" * 20_000, "\ud83d",
)  # fmt: skip
N = "range(100000)"
SLOW = (
    f"SELECT count(*) FROM {N} a, {N} b, {N} c WHERE a.range * b.range % 7 = c.range % 5",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT (n * 7) % 1000000007 FROM r) SELECT max(n) FROM r",
    f"SELECT max(hash(a.range, b.range)) FROM {N} a, {N} b, range(1000) c",
    "SELECT list(a.range) FROM range(10000000000) a",
    "SELECT repeat('x', 2000000000) || repeat('y', 2000000000)",
    "SELECT string_agg(repeat('x', 1000000), '') FROM range(3000)",
    "SELECT * FROM range(100000000000) ORDER BY hash(range) DESC LIMIT 5000000",
    "SELECT range(1000000000)",
    f"SELECT count(*) FROM {N} a, {N} b, {N} c WHERE hash(a.range, b.range, c.range) % 3 = 1",
)
WORDS = {
    "--timeout": ("", "0", "-1", "nan", "inf", "x", "1e99", "86401"),
    "--limit": ("", "-1", "x", "1.5", "1000000001", "nan"),
    "--memory": ("", "1", "63", "x", "-64", "1048577", "1e9", "64.5"),
    "--format": ("", "xml", "JSON", "j" * 2000, "csv "),
}
REPLACED = {
    "SELECT count(*) FROM (VALUES (1), (2))": [(2,)],
    "SELECT NULL": [(None,)],
    "SELECT 1 -- ; DELETE": [(1,)],
    "/* DELETE */ SELECT 2": [(2,)],
    "SELECT 'DROP TABLE gate'": [("DROP TABLE gate",)],
    "FROM range(2)": [(0,), (1,)],
    "VALUES (1)": [(1,)],
    "SELECT to_timestamp(0)": [("1970-01-01 00:00:00+00",)],
    "SELECT now() - now() AS i, now() > '1970-01-01'": [("00:00:00", True)],
    "VALUES (make_timestamptz(2020, 1, 2, 3, 4, 5)) ; -- ;": [("2020-01-02 03:04:05+00",)],
    "SELECT {'a': [to_timestamp(0)]}": [({"a": ["1970-01-01 00:00:00+00"]},)],
    "SELECT MAP {'k': 'infinity'::TIMESTAMPTZ}": [({"k": "infinity"},)],
    "SELECT '-infinity'::DATE, TIMETZ '10:00:00+02'": [("-infinity", "10:00:00+02")],
    "SELECT INTERVAL '300000000 months'": [("25000000 years",)],
    "SELECT union_value(x := to_timestamp(1))::VARIANT::VARCHAR": [("1970-01-01 00:00:01+00",)],
    "SELECT 2::HUGEINT, '01'::BIT, 'a'::BLOB, 'a'::ENUM('a')": [(2, "01", b"a", "a")],
}
"""Unusual queries that only read, with their rows."""


def asked(query):
    """The rows of a query in this process."""

    def attempt(folder):
        run = RunDirectory.open(folder / RUN)
        with EventDatabase(run.event_log, run.samples, memory_mib=64) as database:
            return database.ask(query.replace("{f}", str(folder)), 10).rows

    return attempt


def commanded(*words):
    """The command, with its own process."""
    return lambda folder: call("sql", folder / RUN, *(word.replace("{f}", str(folder)) for word in words))


def cases(rng, scenes):
    files = [query.replace("{p}", place) for query, place in product(FILES, PLACES)]
    while True:
        kind = pick(rng, ["write", "write", "file", "file", "wrong", "wrong", "slow", "option", "right"])
        table = pick(rng, TABLES)
        if kind == "slow":
            query, form = pick(rng, SLOW), pick(rng, ["table", "json", "csv"])
            words = (query, "--timeout", "1", "--memory", "64", "--format", form)
            yield Case(f"{form}: {query}", commanded(*words), must_refuse=True)
        elif kind == "option":
            option = pick(rng, WORDS)
            value = pick(rng, WORDS[option])
            words = ("SELECT 1", option, value)
            yield Case(f"{option} {value!r:.40}", commanded(*words), must_refuse=True, usage=True)
        elif kind == "right":
            query = pick(rng, REPLACED)
            yield Case(
                f"{table}, reads only: {query}",
                asked(query),
                reference=lambda folder, query=query: REPLACED[query],
            )
        else:
            query = pick(rng, {"write": WRITES, "file": files, "wrong": WRONG}[kind]).replace("{t}", table)
            in_process = "\x00" not in query and rng.random() < 0.9
            attempt = asked(query) if in_process or "\x00" in query else commanded(query)
            yield Case(f"{'asked' if in_process else 'command'}: {query!r:.120}", attempt, must_refuse=True)
