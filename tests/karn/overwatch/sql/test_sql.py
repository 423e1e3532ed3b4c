"""SQL runs in a child process that can do nothing but read, and is killed at the deadline."""

import csv
import io
import os

import pytest
from overwatch_builders import live_run, served
from sanctum_builders import ENVS, NAME, ROUNDS

from esper_ray.karn.overwatch.sql.child import CHILD_MIB, block_of, result_of
from esper_ray.karn.overwatch.sql.process import QUERY_SECONDS, REACHED_ROWS, SqlProcess, SqlRefusal
from esper_ray.nissa.log.sql import EventDatabase
from esper_ray.nissa.log.values import csv_cell, json_value

ADDRESS = f"/api/v1/runs/{NAME}/sql"
ENDLESS = "SELECT count(*) FROM range(10000000000000) WHERE range % 7 = 9"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return live_run(tmp_path_factory.mktemp("runs") / "runs")


@pytest.fixture(scope="module")
def process():
    process = SqlProcess()
    yield process
    process.close()


@pytest.fixture(scope="module")
def client(run, process):
    """A client of a server with SQL. The server ends the process; the next query starts another."""
    with served(run.path.parent, sql=process) as client:
        yield client


def test_a_query_has_columns_rows_and_time(client):
    query = "SELECT round, count(*) AS n FROM outcome GROUP BY round ORDER BY round"
    tree = client.post(ADDRESS, json={"query": query}).json()
    assert tree.pop("seconds") < QUERY_SECONDS
    assert tree == {"columns": ["round", "n"], "rows": [[index, ENVS] for index in range(ROUNDS)], "more": False}


def test_a_result_is_paged(client):
    query = "SELECT seq FROM outcome ORDER BY seq"
    pages = [client.post(ADDRESS, json={"query": query, "offset": at, "limit": 10}).json() for at in (0, 10, 20)]
    assert [len(page["rows"]) for page in pages] == [10, 10, 4]
    assert [page["more"] for page in pages] == [True, True, False]
    assert len({row[0] for page in pages for row in page["rows"]}) == ENVS * ROUNDS


def test_the_first_ten_thousand_rows_can_be_reached_and_no_more(client):
    query = "SELECT range FROM range(20000)"
    last = client.post(ADDRESS, json={"query": query, "offset": REACHED_ROWS - 1, "limit": 500}).json()
    assert (last["rows"], last["more"]) == ([[REACHED_ROWS - 1]], False)
    assert client.post(ADDRESS, json={"query": query, "offset": REACHED_ROWS}).status_code == 400


def test_a_result_as_csv_is_a_file(client):
    query = "SELECT episode, slots, success FROM env_epoch WHERE episode = 3 AND step = 12"
    response = client.get(ADDRESS, params={"format": "csv", "query": query})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == f'attachment; filename="{NAME}.csv"'
    header, row = csv.reader(io.StringIO(response.text))
    assert header == ["episode", "slots", "success"]
    assert (row[0], row[2]) == ("3", "True")
    assert "r0c1" in row[1]


def test_a_page_of_another_site_gets_no_file(client):
    params = {"format": "csv", "query": "SELECT 1"}
    response = client.get(ADDRESS, params=params, headers={"sec-fetch-site": "cross-site"})
    assert response.status_code == 403


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("DELETE FROM outcome", "SELECT is expected"),
        ("CREATE TABLE t (a int)", "SELECT is expected"),
        ("COPY outcome TO '/tmp/stolen.csv'", "SELECT is expected"),
        ("INSTALL httpfs", "SELECT is expected"),
        ("ATTACH '/tmp/x.db'", "SELECT is expected"),
        ("SET memory_limit = '100GB'", "SELECT is expected"),
        ("PRAGMA database_list", "SELECT is expected"),
        ("SELECT 1; SELECT 2", "one SELECT is expected, got 2"),
        ("", "one SELECT is needed"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled"),
        ("SELECT * FROM read_blob('/etc/passwd')", "disabled"),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
        ("SELECT * FROM glob('/etc/*')", "disabled"),
        ("SELECT * FROM read_parquet('https://example.com/x.parquet')", "disabled"),
        ("SELECT getenv('HOME')", "getenv"),
        ("SELECT nothing FROM outcome", "nothing"),
        ("SELECT", "Parser Error"),
    ],
)
def test_a_query_that_does_more_than_read_the_log_is_refused(client, query, reason):
    response = client.post(ADDRESS, json={"query": query})
    assert response.status_code == 400
    assert reason in response.json()["error"]
    assert "Traceback" not in response.text


@pytest.fixture
def hasty():
    """A process whose queries have little time."""
    process = SqlProcess(seconds=1.5)
    yield process
    process.close()


def test_a_query_that_never_ends_is_killed_and_the_next_one_is_answered(run, hasty):
    process = hasty
    process.ask(run.path, "SELECT 1")
    first = process.pid
    with pytest.raises(SqlRefusal, match=r"has not ended after 1\.5 s"):
        process.ask(run.path, ENDLESS)
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert process.ask(run.path, "SELECT 1 AS a")["rows"] == [[1]]
    assert process.pid != first


def test_a_query_that_eats_memory_is_refused_and_the_server_goes_on(run, process):
    for query in (
        "SELECT list(range) FROM range(200000000)",
        "SELECT repeat('x', 400000000) AS a, repeat('y', 400000000) AS b",
    ):
        with pytest.raises(SqlRefusal, match=r"memory|MiB|killed|ended its process"):
            process.ask(run.path, query)
    assert process.ask(run.path, "SELECT 1 AS a")["rows"] == [[1]]
    assert CHILD_MIB == 512


def test_a_child_that_dies_is_started_again(run, process):
    process.ask(run.path, "SELECT 1")
    first = process.pid
    os.kill(first, 9)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert process.ask(run.path, "SELECT 1 AS a")["rows"] == [[1]]
    assert process.pid != first


def test_the_child_does_not_know_the_token(run, process, monkeypatch):
    monkeypatch.setenv("ESPER_OVERWATCH_TOKEN", "secret")
    process.close()
    process.ask(run.path, "SELECT 1")
    with open(f"/proc/{process.pid}/environ", "rb") as file:
        assert b"ESPER_OVERWATCH_TOKEN" not in file.read()


def test_events_that_are_added_are_in_the_next_answer(tmp_path, process):
    from state_builders import outcome

    run = live_run(tmp_path)
    count = "SELECT count(*) FROM outcome"
    before = process.ask(run.path, count)["rows"][0][0]
    run.log([outcome(999, 1.0, 50.0)])
    assert process.ask(run.path, count)["rows"] == [[before + 1]]


def test_texts_of_the_log_stay_texts(client):
    evil = "<script>alert(1)</script>"
    response = client.post(ADDRESS, json={"query": f"SELECT '{evil}' AS \"{evil}\""})
    assert response.headers["content-type"] == "application/json"
    assert response.json()["rows"] == [[evil]]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'"SELECT 1"', b'{"query": 1}', b'{"query": "SELECT 1", "offset": "x"}', b"x" * 500_000],
)
def test_a_body_that_is_not_a_query_is_refused(client, content):
    response = client.post(ADDRESS, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400


def test_a_form_cannot_ask(client):
    response = client.post(ADDRESS, data={"query": "SELECT 1"})
    assert (response.status_code, "must be JSON" in response.json()["error"]) == (400, True)


def test_the_tables_have_all_their_columns(run, client):
    tree = client.get(f"{ADDRESS}/tables").json()
    assert (tree["enabled"], tree["reason"]) == (True, None)
    with EventDatabase(run.event_log, run.samples) as database:
        expected = {name: sorted(columns) for name, columns in database.tables().items()}
    assert {
        table["name"]: sorted(column["name"] for column in table["columns"]) for table in tree["tables"]
    } == expected


def test_every_example_is_a_query(client):
    for example in client.get(f"{ADDRESS}/tables").json()["examples"]:
        assert client.post(ADDRESS, json={"query": example["query"]}).status_code == 200, example


def test_where_it_is_off_the_reason_is_given(recorded):
    with served(recorded) as client:
        assert client.get(f"{ADDRESS}/tables").json()["enabled"] is False
        response = client.post(ADDRESS, json={"query": "SELECT 1"})
    assert response.status_code == 403
    assert "`esper overwatch --sql` switches it on" in response.json()["error"]


def test_a_result_that_is_too_large_is_an_error():
    block = block_of({"rows": ["x" * 2**24]})
    assert int.from_bytes(block[:8], "big") == len(block) - 8 < 1000
    assert b"at most 16 are sent" in block


def test_values_of_other_types_are_texts(run):
    with EventDatabase(run.event_log) as database:
        query = (
            "SELECT DATE '2026-01-02' AS d, 'NaN'::DOUBLE AS x, [1, 2] AS l, 'a'::BLOB AS b, 1.5::DECIMAL(3, 1) AS n"
        )
        request = {"query": query, "offset": 0, "limit": 5, "csv": False}
        assert result_of(database, request)["rows"] == [["2026-01-02", None, [1, 2], "61", 1.5]]
        csv_text = result_of(database, {**request, "csv": True})["csv"]
    assert csv_text.splitlines()[1] == '2026-01-02,nan,"[1, 2]",61,1.5'
    assert (json_value(float("inf")), csv_cell([1, None])) == (None, "[1, null]")
