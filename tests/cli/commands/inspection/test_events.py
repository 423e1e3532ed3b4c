"""``esper events``, ``esper sql`` and the seed histories of ``esper explain`` on a real run."""

import json
import shutil

import pytest
from cli_builders import call

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("asked_here")]


@pytest.fixture
def run(finished):
    return finished.run.path


def rows(answer):
    return [json.loads(line) for line in answer.out.splitlines()]


def test_events_are_filtered_by_kind_environment_and_round(run):
    answer = call("events", run, "--kind", "env_epoch", "--env", 1, "--round", 1, "--format", "json", "--limit", 0)
    assert (answer.code, answer.err) == (0, "")
    table = rows(answer)
    assert {(record["kind"], record["env"], record["round"]) for record in table} == {("env_epoch", 1, 1)}
    assert [record["step"] for record in table] == [1, 2, 3]
    assert {record["source"] for record in table} == {"env-1"}


def test_a_table_has_the_fields_of_its_kind_as_columns(run):
    answer = call("events", run, "--kind", "outcome", "--evidence")
    header, rule, *lines = answer.out.splitlines()
    assert header.split()[:7] == ["seq", "round", "episode", "env", "step", "seed", "total_reward"]
    assert set(rule) == {"-", " "}
    assert len(lines) == 4


def test_the_last_events_of_several_kinds_are_printed_in_common_columns(run):
    answer = call("events", run, "--limit", 2)
    assert [line.split()[5] for line in answer.out.splitlines()[2:]] == ["round", "run_finished"]
    assert "the last 2 of" in answer.err


def test_an_empty_result_is_reported(run):
    answer = call("events", run, "--kind", "round", "--round", 99)
    assert answer.code == 0
    assert "the run has no such events so far" in answer.err


def test_samples_are_printed_only_for_their_kind(run):
    answer = call("events", run, "--kind", "decision", "--format", "json", "--limit", 0)
    assert answer.code == 0
    assert rows(answer)
    for decision in rows(answer):
        assert decision["operations"][decision["operation"]] == decision["probability"]
    everything = call("events", run, "--format", "json", "--limit", 0)
    assert "decision" not in {record["kind"] for record in rows(everything)}
    refused = call("events", run, "--kind", "decision", "--evidence")
    assert refused.code == 2
    assert "decision is a sample, which may be lost" in refused.err


def test_samples_can_be_queried_as_tables(run):
    answer = call(
        "sql", run, "SELECT count(*) AS n FROM decision JOIN env_epoch USING (episode, step)", "--format", "json"
    )
    assert rows(answer)[0]["n"] > 0


def test_without_a_query_the_tables_are_listed(run):
    lines = call("sql", run).out.splitlines()
    assert any(line.startswith("gate_checks: seq, round, episode, env, step, name, value") for line in lines)


def test_explain_prints_the_history_of_the_seeds_of_a_slot(finished, run):
    germinated = [e for e in finished.run.events() if e["kind"] == "seed_transition" and e["to"] == "GERMINATED"]
    event = germinated[-1]
    answer = call("explain", run, "--episode", event["episode"], "--slot", event["slot"])
    assert answer.code == 0
    assert f"seed {event['seed']} in {event['slot']}: {event['blueprint']}" in answer.out
    assert "by the policy: GERMINATE" in answer.out
    last = call("explain", run, "--env", event["env"], "--slot", event["slot"])
    assert last.out.splitlines()[0].startswith(f"episode {2 + event['env']} of environment {event['env']}, round 1: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["events", "--kind", "seed_transitions"],
            "--kind: unknown kind 'seed_transitions'; did you mean 'seed_transition'?",
        ),
        (["events", "--env", "7"], "--env 7: the run has the environments 0 to 1"),
        (["events", "--slot", "r9c9"], "--slot r9c9: it must be one of r0c0, r0c1, r0c2"),
        (["events", "--kind", "round", "--env", "0"], "--env 0: events of kind round have no env"),
        (["events", "--format", "csv"], "--format csv: it must be table or json"),
        (["explain", "--slot", "r0c0"], "either --episode or --env is needed"),
        (["explain", "--episode", "0", "--env", "0"], "either --episode or --env is needed, not both"),
        (["explain", "--episode", "0", "--slot", "r9c9"], "--slot r9c9: it must be one of r0c0, r0c1, r0c2"),
        (
            ["explain", "--env", "7", "--slot", "r0c0"],
            "--env 7: it has no complete episode; environments with one: 0, 1",
        ),
        (["explain", "--episode", "0", "--slot", "r0c0", "--step", "1"], "leave one of them out"),
    ],
)
def test_invalid_requests_are_refused(run, words, message):
    answer = call(words[0], run, *words[1:])
    assert answer.code == 2
    assert message in answer.err


def test_an_incomplete_line_is_refused_as_evidence(run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "run")
    (broken / "events.jsonl").write_text('{"schema": 3, "half')
    for words in (["events", broken], ["sql", broken, "SELECT 1"], ["explain", broken, "--env", 0, "--slot", "r0c0"]):
        assert call(*words).code == 0
    for words in (["events", broken, "--evidence"], ["sql", broken, "SELECT 1", "--evidence"]):
        answer = call(*words)
        assert answer.code == 2
        assert "line 1 of" in answer.err


def test_a_finished_run_without_its_events_is_refused_as_evidence(run, tmp_path):
    without_events = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(without_events / "events")
    assert call("events", without_events).code == 0
    for words in (["events", without_events, "--evidence"], ["sql", without_events, "SELECT 1", "--evidence"]):
        answer = call(*words)
        assert answer.code == 2
        assert "are missing: integrity.json counts" in answer.err


def test_an_event_log_of_another_version_is_refused(run, tmp_path):
    outdated = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(outdated / "events")
    (outdated / "events.jsonl").write_text('{"schema": 1, "run": "r", "seq": 0, "kind": "run_started"}\n')
    answer = call("events", outdated)
    assert answer.code == 2
    assert "is an event log of version 1, this program reads 3" in answer.err
