"""State of a run: literals by hand, independence of batches, and equality of resumed and uninterrupted runs."""

import copy
import functools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nissa_builders import any_records, complete, quarantined
from serial_runs import run
from state_builders import close, finished_round, lives, moved, outcome, report, step

from esper_ray.leyline.errors import Fault
from esper_ray.leyline.stages import Stage
from esper_ray.nissa.log.finite import json_record
from esper_ray.nissa.runs.run_files import as_numbers
from esper_ray.nissa.state.episode import EpisodeState, SlotState
from esper_ray.nissa.state.run_state import RunState
from esper_ray.nissa.state.tallies import BlueprintRecord, EpisodeOutcome, RoundTally, SeedReference
from esper_ray.nissa.state.totals import Totals

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run directory of an uninterrupted run of three rounds."""
    return run(tmp_path_factory.mktemp("runs"))[0]


def events_of(directory):
    return [{name: value for name, value in event.items() if name != "run"} for event in directory.events()]


def test_an_episode_keeps_its_best_accuracy_and_the_sum_of_its_rewards():
    state = RunState.of(
        [
            complete({"kind": "episode_started", "episode": 3, "seed": 9, "val_accuracy_pp": 10.0}),
            step(number=1, accuracy=40.0, reward=1.5, episode=3),
            step(number=2, accuracy=30.0, reward=-0.25, episode=3, operation="GERMINATE", success=False),
        ]
    )
    episode = state.episodes[0]
    assert (episode.episode, episode.seed, episode.step) == (3, 9, 2)
    assert (episode.val_accuracy_pp, episode.best_accuracy_pp, episode.best_step) == (30.0, 40.0, 1)
    assert (episode.steps_since_best, episode.reward, episode.episode_return) == (1, -0.25, 1.25)
    assert (episode.operation, episode.success, episode.finished) == ("GERMINATE", False, False)
    assert state.totals.operations == {"WAIT": 1, "GERMINATE": 1}
    assert state.totals.refused == {"GERMINATE": 1}


def test_the_state_of_a_slot_follows_its_seed_from_germination_to_dormancy():
    state = RunState.of([moved("DORMANT", "GERMINATED", 4), moved("GERMINATED", "TRAINING", 4)])
    assert state.episodes[0].slots["r0c0"] == SlotState("r0c0-1", "norm", Stage.TRAINING, 4)
    state = state.apply(step(number=5, slots={"r0c0": report("BLENDING", 7.0, 0.25)}))
    state = state.apply(step(number=6, slots={"r0c0": report("HOLDING", None, 1.0)}))
    slot = state.episodes[0].slots["r0c0"]
    assert (slot.stage, slot.alpha, slot.germinated_step, slot.parameters) == (Stage.HOLDING, 1.0, 4, 12)
    assert (slot.contribution_pp, slot.measured_contribution_pp) == (None, 7.0)
    state = state.apply(moved("HOLDING", "PRUNED", 7)).apply(moved("RESETTING", "DORMANT", 14))
    assert state.episodes[0].slots == {}
    assert state.totals.transitions["RESETTING"] == {"DORMANT": 1}


def test_a_blueprint_averages_the_contributions_at_fossilization():
    state = RunState()
    for number, contribution in enumerate((20.0, 30.0, None)):
        seed = f"r0c0-{number}"
        state = state.apply(step(slots={"r0c0": report("HOLDING", contribution, seed=seed)}))
        state = state.apply(moved("HOLDING", "FOSSILIZED", 9, seed))
    state = state.apply(moved("TRAINING", "PRUNED", 9, "r0c0-7", blueprint=None))
    unmeasured = SeedReference(0, 0, "r0c0", "r0c0-2")  # an earlier record, that these lack, may have measured it
    assert state.blueprints == {
        "norm": BlueprintRecord(3, 0, 50.0, 1300.0, 2, (unmeasured,)),
        "unknown": BlueprintRecord(pruned=1),
    }
    assert state.blueprints["norm"].contribution_pp == 25.0
    assert state.blueprints["norm"].contribution_error_pp == 5.0
    assert state.blueprints["unknown"].contribution_error_pp is None


def test_a_round_closes_its_tally_and_the_run_sums_on():
    entry = {"source": "rent", "slot": None, "amount": -1.5, "cause_step": 0, "why": ""}
    state = RunState.of([step(entries=[entry, entry]), step(number=2, log_prob=0.0), outcome(0, 1.0, 20.0)])
    assert (state.tally.steps, state.tally.steps_with_choice) == (2, 1)
    state = state.apply(finished_round(0, 0.2))
    assert state.last_tally.reward_by_source == {"rent": -3.0}
    assert state.last_tally.outcomes == (EpisodeOutcome(0, 0, 0, 1.0, 20.0, False),)
    assert state.tally == RoundTally()
    assert state.totals.reward_by_source == {"rent": -3.0}


def test_best_episode_and_round_are_the_earliest_of_the_highest():
    records = [outcome(0, 9.0, 40.0), outcome(1, 1.0, 60.0), outcome(2, 2.0, 60.0)]
    state = RunState.of([*records, *(finished_round(i, accuracy) for i, accuracy in enumerate((0.4, 0.6, 0.6)))])
    assert (state.best_episode.episode, state.best_round["round"]) == (1, 1)
    assert state.rolling_accuracy_ratio == pytest.approx(1.6 / 3)
    assert [row["round"] for row in state.rounds] == [0, 1, 2]


def test_the_rolling_accuracy_is_the_mean_of_ten_rounds():
    state = RunState.of(finished_round(index, index / 100) for index in range(12))
    assert state.rolling_accuracy_ratio == pytest.approx(0.065)  # of 0.02 to 0.11


def test_values_without_a_measurement_are_none():
    state = RunState()
    assert (state.rolling_accuracy_ratio, state.control_accuracy_ratio, state.reward_accuracy_correlation) == (
        None,
    ) * 3
    assert (state.status, state.best_episode, state.best_round, state.update) == (None,) * 4


def test_anomalies_are_open_from_their_first_record_to_their_last():
    record = {"kind": "anomaly", "type": "head_collapsed", "round": 4, "value": 0.01, "threshold": 0.08}
    state = RunState.of(complete(record | {"subject": head, "open": True}) for head in ("op", "slot"))
    assert state.open_anomalies("head_collapsed") == 2
    state = state.apply(complete(record | {"subject": "op", "open": False, "round": 6}))
    assert [(anomaly.subject, anomaly.since_round) for anomaly in state.anomalies.values()] == [("slot", 4)]
    assert state.totals.anomalies == {"head_collapsed": 2}


def test_previews_are_dropped_once_the_log_has_their_episode():
    state = RunState().preview(step(number=1, episode=4, accuracy=30.0, round=1))
    assert state.environments[0].val_accuracy_pp == 30.0
    assert (state.episodes, state.totals) == ({}, Totals())
    behind = state.apply(complete({"kind": "episode_started", "episode": 2, "val_accuracy_pp": 10.0}))
    assert (behind.episodes[0].episode, behind.environments[0].episode) == (2, 4)
    logged = behind.apply(complete({"kind": "episode_started", "episode": 4, "val_accuracy_pp": 10.0}))
    assert logged.environments == logged.episodes
    assert logged.preview(step(number=2, episode=4)) is logged
    assert logged.preview(step(number=1, episode=6)).environments[0].episode == 6


def test_status_timings_faults_and_quarantines_are_part_of_the_state():
    fault = Fault("environment_actor_died", "env-1", "killed", 2.0)
    events = [complete({"kind": "run_started", "config_sha256": "c"}), quarantined(0, 1)]
    state = RunState.of(events, [{"round": 0, "play_seconds": 2.0}], [fault])
    assert (state.status, state.config_sha256, state.quarantined) == ("training", "c", {1: "e0"})
    assert (state.timings, state.faults) == (({"round": 0, "play_seconds": 2.0},), (fault,))
    assert state.totals.faults == {"environment_actor_died": 1}
    assert state.with_status("interrupted").status == "interrupted"
    assert state.apply(complete({"kind": "run_finished", "policy_sha256": "p"})).policy_sha256 == "p"


def test_gates_and_their_failed_checks_are_counted_apart():
    checks = [
        {"name": name, "value": 1.0, "threshold": 2.0, "margin": -1.0, "passed": False} for name in ("age", "gain")
    ]
    shut = complete({"kind": "gate", "gate": "G2", "passed": False, "checks": checks})
    totals = RunState.of([shut, shut, complete({"kind": "gate", "gate": "G2", "passed": True})]).totals
    assert (totals.gates_passed, totals.gates_failed) == ({"G2": 1}, {"G2": 2})
    assert totals.failed_checks == {"G2": {"age": 2, "gain": 2}}


def declared(record):
    """``record`` as the log holds it, with stages that exist."""
    stages = [stage.name for stage in Stage]
    for name in ("from", "to"):
        if name in record:
            record[name] = stages[len(record[name]) % len(stages)]
    for slot in record["slots"].values() if record["kind"] == "env_epoch" else ():
        slot["stage"] = "BLENDING"
    return json_record(record)


@given(st.lists(any_records.map(declared), max_size=6), st.data())
def test_earlier_states_do_not_change_and_batches_do_not_matter(records, data):
    cut = data.draw(st.integers(0, len(records)))
    state = RunState.of(records[:cut])
    snapshot = copy.deepcopy(state)
    later = state
    for record in records[cut:]:
        later = later.apply(record)
    assert state == snapshot
    assert later == RunState.of(records)
    assert later.totals.events == Counter(record["kind"] for record in records)


@given(st.data())
def test_records_of_a_run_give_one_state_in_any_batches(finished, data):
    records = events_of(finished)
    cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=5).map(sorted))
    state = RunState()
    for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        for record in records[begin:end]:
            state = state.apply(record)
    assert state == RunState.of(records)


def test_a_resumed_run_has_the_state_of_an_uninterrupted_one(finished, tmp_path):
    def after_one_round(watcher):
        return len(watcher.rows) == 1

    first, *_ = run(tmp_path, stop_after=after_one_round)
    assert RunState.of(events_of(first)).status == "training"
    resumed, *_ = run(tmp_path, resume=first.path)
    assert RunState.of(events_of(resumed)) == RunState.of(events_of(finished))


def test_the_state_of_a_finished_run_agrees_with_its_files(finished):
    rows = [as_numbers(row) for row in finished.rounds()]
    state = RunState.of(finished.events(), map(as_numbers, finished.timings()), finished.faults())
    for record, row in zip(state.rounds, rows, strict=True):
        finite = {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()
        }
        assert {name: record[name] for name in row} == finite
    assert state.totals.steps == rows[-1]["env_steps"]
    assert sum(state.totals.refused.values()) == sum(row["refused"] for row in rows)
    for operation in ("WAIT", "GERMINATE", "PRUNE"):
        assert state.totals.operations.get(operation, 0) == sum(row[f"op_{operation.lower()}"] for row in rows)
    assert state.totals.episodes == {"finished": sum(row["episodes"] for row in rows)}
    assert all(isinstance(episode, EpisodeState) and episode.finished for episode in state.environments.values())
    assert [timing["round"] for timing in state.timings] == [0, 1, 2]
    assert state.faults == ()


@given(st.data())
def test_states_of_the_parts_of_a_log_merge_to_the_state_of_the_whole(finished, data):
    records = events_of(finished)
    cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=4).map(sorted))
    parts = [RunState.of(records[begin:end]) for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True)]
    whole = RunState.of(records)
    assert close(functools.reduce(RunState.merged, parts), whole)
    right = parts[-1]
    for part in reversed(parts[:-1]):  # in the other order of brackets
        right = part.merged(right)
    assert close(right, whole)
    assert close(RunState().merged(whole), whole)
    assert close(whole.merged(RunState()), whole)


@given(lives(), st.data())
def test_any_two_parts_of_any_log_merge_to_the_whole(records, data):
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(records))] * 2)))
    parts = [RunState.of(part) for part in (records[:first], records[first:second], records[second:])]
    whole = RunState.of(records)
    assert close(parts[0].merged(parts[1]).merged(parts[2]), whole)
    assert close(parts[0].merged(parts[1].merged(parts[2])), whole)


def test_every_item_is_counted_and_the_sections_say_which_changed_them_last():
    state = RunState.of([complete({"kind": "run_started"}), step(env=3), finished_round(0, 0.5)])
    assert (state.count, state.changed["run"], state.changed["environments"], state.changed["rounds"]) == (3, 1, 2, 3)
    assert state.changed_environments == {3: 2}
    assert "anomalies" not in state.changed
