"""SQL over event logs: content of the tables, and read-only access."""

import shutil

import pytest
from nissa_builders import complete, quarantined, transition

from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.log.sql import EventDatabase, QueryError

CHECKS = [
    {"name": "age", "value": 4.0, "threshold": 5.0, "margin": -1.0, "passed": False},
    {"name": "finite", "value": 1.0, "threshold": 1.0, "margin": 0.0, "passed": True},
]
REPORT = {"seed": "r0c0-1", "blueprint": "norm", "stage": "BLENDING", "alpha": 0.5}
STEP = {"kind": "env_epoch", "env": 2, "step": 7, "slots": {"r0c0": REPORT | {"contribution_pp": 1.5}, "r0c1": REPORT}}


@pytest.fixture(params=["lines", "parquet", "both"])
def log(request, tmp_path):
    event_log = EventLog(tmp_path, "run", "A")
    event_log.append([quarantined(0), transition(1, 2), complete({"kind": "gate", "checks": CHECKS, "gate": "G2"})])
    if request.param != "lines":
        event_log.compact(always=True)
    event_log.append([transition(1, 3), complete(STEP), outcome(2.5)])
    if request.param == "parquet":
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
        "decision_operations",
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
        ("", "one SELECT is expected, got 0"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM '/etc/passwd'", "passwd"),
        ("SELECT colour FROM gate", "colour"),
        ("SELEC 1", "syntax error"),
    ],
)
def test_statements_other_than_a_select_on_the_log_are_refused(log, tmp_path, sql, message):
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
        file.write('{"schema": 2, "ki')
    with EventDatabase(log) as database:
        assert database.ask("SELECT count(*) FROM environment_quarantined").rows == [(1,)]
    assert f"line 2 of {log.tail} is not JSON" in caplog.text
