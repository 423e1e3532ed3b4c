"""``esper sql``: formats, limits, refusals, and the process of the query."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_builders import call

from esper_ray.cli.jobs import query
from esper_ray.cli.jobs.query import QueryLimitError, QueryRequest, ask_in_process

pytestmark = pytest.mark.integration

NUMBERS = "SELECT corr(round, 1) AS c, 1.0 / 0.0 AS y, -1.0 / 0.0 AS z, NULL AS n FROM outcome"
NUMBERED = "range(100000)"
ENDLESS = f"SELECT count(*) FROM {NUMBERED} a, {NUMBERED} b, {NUMBERED} c WHERE a.range * b.range % 7 = c.range % 5"


@pytest.fixture
def run(finished):
    return finished.run.path


def rows(answer):
    return [json.loads(line, parse_constant=pytest.fail) for line in answer.out.splitlines()]


def test_json_csv_and_tables_hold_the_same_rows(run):
    query = "SELECT round, count(*) AS n FROM env_epoch GROUP BY round ORDER BY round"
    assert rows(call("sql", run, query, "--format", "json")) == [{"round": 0, "n": 6}, {"round": 1, "n": 6}]
    answer = call("sql", run, query, "--format", "csv")
    assert list(csv.reader(answer.out.splitlines())) == [["round", "n"], ["0", "6"], ["1", "6"]]
    assert [line.split() for line in call("sql", run, query).out.splitlines()[2:]] == [["0", "6"], ["1", "6"]]


@pytest.mark.usefixtures("asked_here")
def test_json_has_null_for_numbers_that_are_not_finite(run):
    (row,) = rows(call("sql", run, NUMBERS, "--format", "json"))
    assert row == {"c": None, "y": None, "z": None, "n": None}
    nested = "SELECT [1.0, 'nan'::DOUBLE] AS a, {'b': 'inf'::DOUBLE} AS s, MAP {'k': 1.5} AS m, 1.50 AS d, 3.00 AS i"
    assert rows(call("sql", run, nested, "--format", "json")) == [
        {"a": [1.0, None], "s": {"b": None}, "m": {"k": 1.5}, "d": 1.5, "i": 3}
    ]


@pytest.mark.usefixtures("asked_here")
def test_csv_and_tables_name_numbers_that_are_not_finite(run):
    header, values = csv.reader(call("sql", run, NUMBERS, "--format", "csv").out.splitlines())
    assert (header, values) == (["c", "y", "z", "n"], ["nan", "inf", "-inf", ""])
    assert call("sql", run, NUMBERS).out.splitlines()[2].split() == ["nan", "inf", "-inf", "-"]


@pytest.mark.usefixtures("asked_here")
def test_lists_are_json_in_csv_and_in_tables(run):
    query = "SELECT [1.5, NULL] AS a, 0.1::DOUBLE + 0.2::DOUBLE AS s"
    assert list(csv.reader(call("sql", run, query, "--format", "csv").out.splitlines()))[1] == [
        "[1.5, null]",
        "0.30000000000000004",
    ]
    assert call("sql", run, query).out.splitlines()[2].split("  ") == ["[1.5, null]", "0.3"]


@pytest.mark.usefixtures("asked_here")
def test_times_and_bytes_have_the_same_text_in_every_format(run):
    query = "SELECT to_timestamp(0) AS t, INTERVAL 1 MONTH AS i, 'a'::BLOB AS b, [DATE '2020-01-01', NULL] AS d"
    words = ["1970-01-01 00:00:00+00", "1 month", "61"]
    (row,) = rows(call("sql", run, query, "--format", "json"))
    assert row == dict(zip("tib", words, strict=True)) | {"d": ["2020-01-01", None]}
    _, cells = csv.reader(call("sql", run, query, "--format", "csv").out.splitlines())
    assert cells == [*words, '["2020-01-01", null]']
    assert call("sql", run, query).out.splitlines()[2].split("  ") == [word for word in cells if word]


@pytest.mark.usefixtures("asked_here")
def test_two_columns_of_one_name_are_refused_in_json_only(run):
    answer = call("sql", run, "SELECT 1 AS a, 2 AS a", "--format", "json")
    assert (answer.code, answer.out) == (2, "")
    assert "two columns are named 'a': an object of JSON needs AS with another name" in answer.err
    assert call("sql", run, "SELECT 1 AS a, 2 AS a", "--format", "csv").out.split() == ["a,a", "1,2"]


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_the_limit_holds_for_every_format_and_is_reported(run, form):
    head = {"json": 0, "csv": 1, "table": 2}[form]
    query = "SELECT * FROM range(1200)"
    for options, count in (([], 1000), (["--limit", 7], 7), (["--limit", 0], 1200), (["--limit", 1200], 1200)):
        answer = call("sql", run, query, "--format", form, *options)
        assert answer.code == 0
        assert len(answer.out.splitlines()) == count + head
        assert answer.err == ("" if count == 1200 else f"the first {count} rows; --limit 0 prints all\n")


def test_a_query_is_ended_at_its_timeout(run):
    began = time.monotonic()
    answer = call("sql", run, ENDLESS, "--timeout", 3)
    assert time.monotonic() - began < 6
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "esper: error: the query has not ended after 3 s; --timeout gives it more time\n"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT list(a.range) FROM range(1000000000) a",
        "SELECT repeat('x', 2000000000) || repeat('y', 2000000000)",
        "SELECT string_agg(repeat('x', 1000000), '') FROM range(3000)",
    ],
)
def test_a_query_that_needs_too_much_memory_is_refused(run, query):
    answer = call("sql", run, query, "--memory", 64, "--timeout", 60)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("esper: error: ")
    assert "emory" in answer.err
    assert "Traceback" not in answer.err


def test_an_endless_result_is_cut_at_the_limit(run):
    answer = call("sql", run, "SELECT * FROM range(1000000000000)", "--limit", 3, "--format", "csv")
    assert (answer.code, answer.out.split()) == (0, ["range", "0", "1", "2"])


def test_interrupt_ends_the_command_and_its_query_at_once(run):
    command = [sys.executable, "-m", "esper_ray.cli.main", "sql", str(run), ENDLESS, "--timeout", "100"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(4)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert (process.returncode, out, err) == (130, "", "")
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_killed_query_is_reported(run, monkeypatch):
    monkeypatch.setattr("esper_ray.cli.jobs.query.sys.executable", "/bin/sh")
    monkeypatch.setattr("esper_ray.cli.jobs.query.MODULE", ("-c", "kill -9 $$"))
    with pytest.raises(QueryLimitError, match="the process of the query ended with SIGKILL"):
        ask_in_process(QueryRequest(str(run), None, "table", 0, 64, False), 10.0)


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SELECT 1", "--format", "xml"], "--format xml: it must be one of table, json, csv"),
        (["SELECT 1", "--timeout", "nan"], "Invalid value for '--timeout'"),
        (["SELECT 1", "--timeout", "0"], "Input should be greater than or equal to 0.1"),
        (["SELECT 1", "--timeout", "1e99"], "Input should be less than or equal to 86400"),
        (["SELECT 1", "--limit", "-1"], "Input should be greater than or equal to 0"),
        (["SELECT 1", "--memory", "1"], "Input should be greater than or equal to 64"),
        (["DELETE FROM gate"], "an event log is only read: SELECT is expected, got DELETE"),
        (["EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1"], "SELECT is expected, got CREATE"),
        (["SELECT nothing FROM gate"], "nothing"),
        (["SELECT '\udcff'"], "esper: error: the argument \"SELECT '\\udcff'\" is not UTF-8"),
    ],
)
def test_invalid_requests_are_refused(run, words, message):
    answer = call("sql", run, *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert "Traceback" not in answer.err


def test_an_explained_select_is_answered(run):
    answer = call("sql", run, "EXPLAIN ANALYZE SELECT count(*) FROM outcome")
    assert answer.code == 0
    assert "Ungrouped Aggregate" in answer.out
    assert "\\n" not in answer.out


def test_an_error_just_before_the_timeout_is_the_only_one(capfd):
    """A process that ends slowly after its error has answered in time."""
    program = "import sys, time; print('esper: error: no', file=sys.stderr, flush=True); time.sleep(2); sys.exit(2)"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe) as process:
        query._copy_output(process, 1.5)
        assert process.wait() == 2
    assert capfd.readouterr().err == "esper: error: no\n"
