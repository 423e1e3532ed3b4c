"""``esper explain``: entries of a reward and their causes."""

import json
import shutil

import pytest
from cli_builders import only_run

from esper_ray.cli.commands.inspection.explain import entries_of, step_lines
from esper_ray.karn.questions.account import PaidEntry, step_account
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.simic.ledger import Ledger

pytestmark = pytest.mark.integration


@pytest.fixture
def run(esper, runs):
    flags = ["--episode-length", "14", "--reward-mode", "basic_plus", "--set", "growth.min_training_epochs=1"]
    assert esper("train", "heuristic", "--telemetry-dir", runs, "--set", "training.steps_per_epoch=3", *flags).code == 0
    return only_run(runs).path


def step_records(run):
    return [record for record in RunDirectory.open(run).events() if record["kind"] == "env_epoch"]


def test_every_entry_of_a_step_is_printed_with_its_slot_cause_and_reason(esper, run):
    steps = step_records(run)
    number = max(range(len(steps)), key=lambda index: len(steps[index]["entries"])) + 1
    record = steps[number - 1]
    answer = esper("explain", run, "--episode", "0", "--step", number)
    assert answer.code == 0
    assert f"reward {record['reward']:+.4f}, the sum of {len(record['entries'])} entries" in answer.out
    lines = answer.out.splitlines()
    assert len(record["entries"]) >= 2
    for entry in record["entries"]:
        (line,) = [line for line in lines if f"{entry['amount']:+.4f}" in line and entry["why"] in line]
        assert entry["source"] in line
        assert (entry["slot"] or "-") in line.split()


def test_an_episode_is_summarised_by_source_and_slot(esper, run):
    answer = esper("explain", run, "--episode", "0")
    assert answer.code == 0
    ledger = Ledger(entry for record in step_records(run) for entry in entries_of(record))
    assert f"return {ledger.total():+.4f}" in answer.out
    for source, amount in ledger.by_source().items():
        assert any(line.split() == [source, f"{amount:+.4f}"] for line in answer.out.splitlines())
    assert "the whole network" in answer.out
    assert "decisions that mattered most" in answer.out


def test_a_missing_event_is_warned_about_once(esper, run, caplog):
    log = RunDirectory.open(run).event_log
    events = [event | {"schema": 3, "seq": event["seq"] + (event["seq"] > 5)} for event in log.records()]
    shutil.rmtree(log.parts()[0].path.parent, ignore_errors=True)
    (run / "integrity.json").unlink(missing_ok=True)
    log.tail.write_text("".join(json.dumps(event) + "\n" for event in events))
    for words in (("--env", "0"), ("--episode", "0"), ("--env", "0", "--slot", "r0c0")):
        caplog.clear()
        assert esper("explain", run, *words).code == 0
        assert caplog.text.count("events 6 to 6 are missing") == 1


def test_deferred_rewards_are_printed_at_their_causal_step():
    entries = [
        PaidEntry(4, 4, "commitment", "r0c1", 1.5, "contribution +4.00 points"),
        PaidEntry(5, 4, "drip", "r0c1", 0.25, "contribution +2.00 points"),
        PaidEntry(6, 4, "drip", "r0c1", 0.5, "contribution +3.00 points"),
    ]
    record = {
        "operation": "FOSSILIZE",
        "slot": "r0c1",
        "success": True,
        "why": "good",
        "val_accuracy_pp": 50.0,
        "val_loss": 1.0,
    }
    text = "\n".join(step_lines(step_account(entries, 4), record, 4))
    assert "step 4: FOSSILIZE r0c1 (good); validation 50.00 %" in text
    assert "caused by step 4 and paid later +0.7500, in 2 entries" in text
    assert "at step 6" in text
    assert "because of step 4" in "\n".join(step_lines(step_account(entries, 6), record, 6))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--episode", "0", "--step", "15"], "--step 15: episode 0 has the steps 1 to 14"),
        (["--episode", "3"], "episode 3 was not recorded; the log holds 0 to 0"),
        (["--episode", "0", "--step", "0"], "--step"),
        (["--episode", "-1"], "--episode"),
        ([], "--episode"),
    ],
)
def test_an_unrecorded_episode_or_step_is_refused(esper, run, flags, expected):
    answer = esper("explain", run, *flags)
    assert answer.code == 2
    assert expected in answer.err
    assert "Traceback" not in answer.err


def test_a_folder_that_is_no_run_is_refused(esper, tmp_path):
    answer = esper("explain", tmp_path, "--episode", "0")
    assert answer.code == 2
    assert "is not a run directory" in answer.err
