"""SQL over event logs: content of the tables, and read-only access."""

import shutil
import time
from decimal import Decimal
from uuid import UUID

import pytest
from nissa_builders import complete, quarantined, transition

from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log import parquet
from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.log.sql import SETTINGS, EventDatabase, QueryError, QueryResult

pytestmark = pytest.mark.integration

CHECKS = [
    {"name": "age", "value": 4.0, "threshold": 5.0, "margin": -1.0, "passed": False},
    {"name": "finite", "value": 1.0, "threshold": 1.0, "margin": 0.0, "passed": True},
]
REPORT = {"seed": "r0c0-1", "blueprint": "norm", "stage": "BLENDING", "alpha": 0.5}
STEP = {"kind": "env_epoch", "env": 2, "step": 7, "slots": {"r0c0": REPORT | {"contribution_pp": 1.5}, "r0c1": REPORT}}


@pytest.fixture(params=["lines", "parquet", "both"])
def log(request, tmp_path):
    return written_log(tmp_path, request.param)


def written_log(folder, layout):
    event_log = EventLog(folder, "run", "A")
    event_log.append([quarantined(0), transition(1, 2), complete({"kind": "gate", "checks": CHECKS, "gate": "G2"})])
    if layout != "lines":
        event_log.compact(always=True)
    event_log.append([transition(1, 3), complete(STEP), outcome(2.5)])
    if layout == "parquet":
        event_log.compact(always=True)
    return event_log


def outcome(total):
    return complete({"kind": "outcome", "total_reward": total, "reward_by_source": {"host": -0.5, "vesting": 3.0}})


def ask(log, sql):
    with EventDatabase(log) as database:
        return database.ask(sql)


def test_every_kind_and_every_list_of_nested_records_has_a_table(log):
    with EventDatabase(log) as database:
        tables = database.tables()
    assert set(KINDS) <= set(tables)
    assert set(tables) - set(KINDS) == {
        "gate_checks",
        "env_epoch_entries",
        "env_epoch_slots",
        "outcome_reward_by_source",
        "decision_heads",
        "decision_operations",
        "host_layers",
        "decision_values",
        "profile_seconds",
        "profile_cuda_bytes",
        "counterfactual_coalitions",
        "attribution_slots",
        "attribution_pairs",
    }
    assert tables["gate_checks"][:5] == ("seq", "round", "episode", "env", "step")


def test_rows_are_the_same_for_lines_and_parquet(log):
    answer = ask(log, 'SELECT seq, source, source_seq, step, "to" FROM seed_transition ORDER BY seq')
    assert answer.columns == ("seq", "source", "source_seq", "step", "to")
    assert answer.rows == [(1, "env-1", 0, 2, "GERMINATED"), (3, "env-1", 1, 3, "GERMINATED")]
    assert ask(log, 'SELECT run, "group", error FROM environment_quarantined').rows == [("run", "A", "e0")]
    assert ask(log, "SELECT count(*) FROM rollback").rows == [(0,)]


def test_the_index_of_each_part_is_read_once(tmp_path, monkeypatch):
    log, files = written_log(tmp_path, "parquet"), []
    read = parquet.read_content
    monkeypatch.setattr(parquet, "read_content", lambda file: files.append(file) or read(file))
    EventDatabase(log).close()
    assert files == [part.path / "part.json" for part in log.parts()]
    assert len(files) == 2


def test_nested_records_are_rows_of_their_own_table(log):
    assert ask(log, "SELECT seq, name, margin FROM gate_checks WHERE NOT passed").rows == [(2, "age", -1.0)]
    rows = ask(log, "SELECT env, step, name, contribution_pp FROM env_epoch_slots ORDER BY name").rows
    assert rows == [(2, 7, "r0c0", 1.5), (2, 7, "r0c1", None)]
    assert ask(log, "SELECT name, value FROM outcome_reward_by_source ORDER BY name").rows == [
        ("host", -0.5),
        ("vesting", 3.0),
    ]
    assert ask(log, "SELECT count(*) FROM env_epoch_entries").rows == [(0,)]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CREATE TABLE x AS SELECT 1", "only read: SELECT is expected, got CREATE"),
        ("INSERT INTO gate SELECT * FROM gate", "got INSERT"),
        ("DROP VIEW gate", "got DROP"),
        ("COPY gate TO '{folder}/stolen.csv'", "got COPY"),
        ("ATTACH '{folder}/other.db'", "got ATTACH"),
        ("SET enable_external_access = true", "got SET"),
        ("SELECT 1; SELECT 2", "one SELECT is expected, got 2"),
        ("EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1", "SELECT is expected, got CREATE"),
        ("EXPLAIN ANALYZE COPY gate TO '{folder}/stolen.csv'", "SELECT is expected, got COPY"),
        ("EXPLAIN (ANALYZE) COPY gate TO '{folder}/stolen.csv'", "SELECT is expected, got COPY"),
        ("explain\tanalyze (format json) DROP VIEW gate", "SELECT is expected, got DROP"),
        ("EXPLAIN ANALYZE INSERT INTO gate SELECT * FROM gate", "SELECT is expected, got INSERT"),
        ("/**/ EXPLAIN ANALYZE DROP VIEW gate", "SELECT is expected, got DROP"),
        ("EXPLAIN /* /* */ SELECT 1 */ DROP VIEW gate", "SELECT is expected, got DROP"),
        ("EXPLAIN /**/ ANALYZE DROP VIEW gate", "SELECT is expected, got DROP"),
        ("-- x\nEXPLAIN ANALYZE DROP VIEW gate", "SELECT is expected, got DROP"),
        ("PRAGMA database_list", "SELECT is expected, got"),
        ("CALL enable_logging()", "SELECT is expected, got"),
        ("INSTALL httpfs", "SELECT is expected, got"),
        ("LOAD httpfs", "SELECT is expected, got"),
        ("EXPORT DATABASE '{folder}/stolen'", "SELECT is expected, got"),
        ("SET memory_limit = '100GB'", "got SET"),
        ("PREPARE q AS SELECT 1", "got PREPARE"),
        ("BEGIN TRANSACTION", "got TRANSACTION"),
        ("", "one SELECT is expected, got 0"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM '/etc/passwd'", "passwd"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM read_blob('{folder}/events.jsonl')", "disabled by configuration"),
        ("SELECT * FROM read_parquet('{folder}/x.parquet')", "disabled by configuration"),
        ("SELECT * FROM read_json('http://127.0.0.1/x')", "disabled by configuration"),
        ("SELECT * FROM glob('/etc/*')", "disabled by configuration"),
        ("SELECT * FROM sqlite_scan('/x.db', 'y')", "sqlite_scan"),
        ("SELECT * FROM log", "log does not exist"),
        ("SELECT colour FROM gate", "colour"),
        ("SELEC 1", "syntax error"),
    ],
)
def test_statements_other_than_a_select_on_the_log_are_refused(tmp_path, sql, message):
    log = written_log(tmp_path, "both")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(QueryError, match=message):
        ask(log, sql.format(folder=tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_log_with_a_gap_is_queried_with_a_warning_and_refused_as_evidence(tmp_path, caplog):
    log = EventLog(tmp_path, "run")
    for number in range(3):
        log.append([quarantined(number)])
        log.compact(always=True)
    shutil.rmtree(log.parts()[1].path)
    with EventDatabase(log) as database:
        assert database.ask("SELECT error FROM environment_quarantined ORDER BY seq").rows == [("e0",), ("e2",)]
    assert "events 1 to 1 are missing" in caplog.text
    with pytest.raises(EventLogError, match="events 1 to 1 are missing"):
        EventDatabase(log, evidence=True)


def test_a_partial_line_at_the_end_of_a_live_log_is_skipped(tmp_path, caplog):
    log = EventLog(tmp_path, "run")
    log.append([quarantined(0)])
    with log.tail.open("a") as file:
        file.write('{"schema": 3, "ki')
    with EventDatabase(log) as database:
        assert database.ask("SELECT count(*) FROM environment_quarantined").rows == [(1,)]
    assert f"line 2 of {log.tail} is cut off" in caplog.text


def test_every_setting_that_opens_a_way_out_is_closed_and_locked(log):
    names = ", ".join(f"'{name}'" for name in SETTINGS)
    rows = dict(ask(log, f"SELECT name, value FROM duckdb_settings() WHERE name IN ({names})").rows)
    assert {name: value or "" for name, value in rows.items()} == dict(SETTINGS)


def test_a_limited_question_reads_the_first_rows(log):
    with EventDatabase(log) as database:
        assert database.ask("SELECT * FROM range(1000000000000)", 2).rows == [(0,), (1,)]


VALUES = {
    "to_timestamp(0)": "1970-01-01 00:00:00+00",
    "make_timestamptz(2020, 1, 2, 3, 4, 5.5)": "2020-01-02 03:04:05.5+00",
    "'infinity'::TIMESTAMPTZ": "infinity",
    "'-infinity'::DATE": "-infinity",
    "'infinity'::TIMESTAMP": "infinity",
    "DATE '0044-03-15 (BC)'": "0044-03-15 (BC)",
    "TIMESTAMP '2020-01-01'": "2020-01-01 00:00:00",
    "'2020-01-01 00:00:00.123456789'::TIMESTAMP_NS": "2020-01-01 00:00:00.123456789",
    "'2020-01-01'::TIMESTAMP_S": "2020-01-01 00:00:00",
    "'2020-01-01'::TIMESTAMP_MS": "2020-01-01 00:00:00",
    "TIME '24:00:00'": "24:00:00",
    "'23:59:59.123456789'::TIME_NS": "23:59:59.123456789",
    "TIMETZ '10:00:00+02'": "10:00:00+02",
    "INTERVAL '1 month 2 days 3 seconds'": "1 month 2 days 00:00:03",
    "INTERVAL '300000000 months'": "25000000 years",
    "170141183460469231731687303715884105727::HUGEINT": 2**127 - 1,
    "340282366920938463463374607431768211455::UHUGEINT": 2**128 - 1,
    "1::BIGNUM": "1",
    "-1::TINYINT": -1,
    "18446744073709551615::UBIGINT": 2**64 - 1,
    "1.50::DECIMAL(38, 2)": Decimal("1.50"),
    "true": True,
    "NULL": None,
    "NULL::TIMESTAMPTZ": None,
    "'0101'::BIT": "0101",
    "'\\xAA\\x00b'::BLOB": b"\xaa\x00b",
    "'a'::ENUM('a', 'b')": "a",
    "'00000000-0000-0000-0000-000000000001'::UUID": UUID(int=1),
    "'{}'::JSON": "{}",
    "{'a': 1}::VARIANT": '{"a":1}',
    "to_timestamp(0)::VARIANT": '"1970-01-01 00:00:00+00"',
    "union_value(x := to_timestamp(0))": "1970-01-01 00:00:00+00",
    "union_value(x := 1)::UNION(x INTEGER, d DATE)": 1,
    "[to_timestamp(0), NULL]": ["1970-01-01 00:00:00+00", None],
    "[[to_timestamp(0)]]::TIMESTAMPTZ[1][1]": (("1970-01-01 00:00:00+00",),),
    "row(DATE '2020-01-01', 2)": ("2020-01-01", 2),
    "{'a \"b': [{'t': TIME '10:00', 'e': 'a'::ENUM('a', 'b')}]}": {'a "b': [{"t": "10:00:00", "e": "a"}]},
    "MAP {to_timestamp(0): INTERVAL 1 DAY}": {"1970-01-01 00:00:00+00": "1 day"},
    "MAP {'k': [1.5::DECIMAL(3, 1)]}": {"k": [Decimal("1.5")]},
}
"""A value of every type of DuckDB, alone and inside others."""


def test_a_value_of_every_type_is_read_exactly(log):
    with EventDatabase(log) as database:
        for value, read in VALUES.items():
            for limit in (None, 1):
                result = database.ask(f"SELECT {value} AS v, 2 AS v; -- ; x", limit)
                assert result == QueryResult(("v", "v"), [(read, 2)]), value


def test_times_are_in_utc_whatever_the_zone_of_the_machine(log, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert ask(log, "SELECT make_timestamptz(2020, 1, 1, 0, 0, 0)").rows == [("2020-01-01 00:00:00+00",)]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_rows_with_times_keep_their_order(log):
    sql = "SELECT range AS n, to_timestamp(range) AS t FROM range(1000) ORDER BY range DESC"
    with EventDatabase(log) as database:
        rows = database.ask(sql, 3).rows
        assert rows == [(n, f"1970-01-01 00:16:{n % 60:02d}+00") for n in (999, 998, 997)]
        assert [n for n, _ in database.ask(sql).rows] == list(range(999, -1, -1))


@pytest.mark.parametrize(
    "sql",
    [
        "EXPLAIN SELECT 1",
        "explain analyze SELECT count(*) FROM gate",
        "EXPLAIN (FORMAT json) SELECT 1",
        "-- a comment\nEXPLAIN ANALYZE SELECT now()",
        "/* a */ -- b\n/* c */ EXPLAIN /* d */ ANALYZE -- e\n SELECT 1",
    ],
)
def test_a_select_may_be_explained(log, sql):
    assert ask(log, sql).rows


def test_a_query_leaves_no_file_behind(log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with EventDatabase(log, memory_mib=64) as database, pytest.raises(QueryError, match="more memory than the 64 MiB"):
        database.ask("SELECT a.range FROM range(50000000) a ORDER BY hash(a.range)")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
