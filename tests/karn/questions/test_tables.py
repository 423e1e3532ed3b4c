"""Questions see the log as it is, keep their answers until it grows, and survive compaction."""

import pytest
from report_builders import run_of, small_records
from state_builders import outcome, step

from esper_ray.karn.questions.tables import LogTables, QuestionPool, RunQuestions
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.log.sql import QueryError

pytestmark = pytest.mark.integration

SOME = ("episode_started", "env_epoch", "seed_transition", "rollback", "outcome", "control", "round", "ppo_update")


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path, small_records(), status="running")


def records_of(run, kinds):
    """Events of these kinds; what their version did not record is null."""
    return [_added(record) | record for record in run.events() if record["kind"] in kinds]


def _added(record):
    return {field.name: None for field in KINDS[record["kind"]].fields if field.added}


@pytest.mark.parametrize("compacted", [False, True])
def test_records_are_those_of_the_log(run, compacted):
    if compacted:
        run.compact(always=True)
    tables = LogTables(run)
    assert tables.records(SOME) == records_of(run, SOME)
    tables.close()


def test_a_condition_selects_records(run):
    tables = LogTables(run)
    expected = [record for record in records_of(run, ("env_epoch", "outcome")) if record["episode"] == 3]
    assert tables.records(("env_epoch", "outcome"), "episode = 3") == expected
    assert expected
    tables.close()


def counted(tables, calls, table="outcome"):
    calls.append(table)
    return tables.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"]


class Calls(list):
    __hash__ = object.__hash__


def test_an_answer_is_kept_until_the_log_grows(run):
    questions, calls = RunQuestions(run), Calls()
    assert questions.ask(counted, calls) == questions.ask(counted, calls) == 6
    assert calls == ["outcome"]
    assert questions.ask(counted, calls, table="round") == 3
    run.log([outcome(6, 1.0, 50.0)])
    assert questions.ask(counted, calls) == 7
    assert calls == ["outcome", "round", "outcome"]
    questions.close()


def test_a_question_is_asked_again_when_the_log_is_compacted_meanwhile(run):
    questions, attempts = RunQuestions(run), []

    def question(tables):
        attempts.append(len(tables.rows("SELECT seq FROM outcome")))
        if len(attempts) == 1:
            run.compact(always=True)
            raise EventLogError("a file has gone")
        return attempts[-1]

    assert questions.ask(question) == 6
    assert attempts == [6, 6]
    questions.close()


def test_a_damaged_log_is_an_error_after_one_attempt(run):
    questions, attempts = RunQuestions(run), []

    def question(tables):
        attempts.append(tables)
        raise EventLogError("damaged")

    with pytest.raises(EventLogError, match="damaged"):
        questions.ask(question)
    assert len(attempts) == 1


def test_a_wrong_query_is_an_error(run):
    questions = RunQuestions(run)
    with pytest.raises(QueryError):
        questions.ask(lambda tables: tables.rows("SELECT nothing FROM outcome"))
    questions.close()


def test_the_tables_of_few_runs_stay_open(tmp_path):
    runs = [run_of(tmp_path, [step()], status="running", run_id=f"run-{number}") for number in range(3)]
    pool = QuestionPool(most=2)
    first = pool.of(runs[0])
    first.ask(lambda tables: tables.rows("SELECT seq FROM env_epoch"))
    assert pool.of(runs[0]) is first
    pool.of(runs[1])
    pool.of(runs[2])
    assert first._tables is None
    assert pool.of(runs[0]) is not first
    pool.close()
