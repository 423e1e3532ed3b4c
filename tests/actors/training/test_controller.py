"""Whole runs in one process: repeatable byte for byte, with or without an interruption."""

from hashlib import sha256

import pytest
from checkpoint_builders import state_of
from learner_builders import small_config
from serial_runs import SETTINGS, events, rounds_csv, run

from esper_actors.rollout.runner import episode_seed
from esper_actors.training.checkpoint import CheckpointError, checkpoints_in, load_checkpoint
from esper_actors.training.round_summary import DIAGNOSTICS

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("straight"))


def test_equal_seeds_give_equal_runs_byte_for_byte(uninterrupted, tmp_path):
    repeated = run(tmp_path)
    assert uninterrupted[3] is repeated[3] is True
    assert rounds_csv(uninterrupted[0]) == rounds_csv(repeated[0])
    assert uninterrupted[1].weights_digest() == repeated[1].weights_digest()
    assert events(uninterrupted[0]) == events(repeated[0])
    assert len(events(repeated[0])) > 3 * 2 * 3
    assert uninterrupted[0].run_id == uninterrupted[0].path.name
    assert {event["run"] for event in repeated[0].events()} == {repeated[0].run_id}


def test_another_seed_gives_another_run(uninterrupted, tmp_path):
    other_run = run(tmp_path, seed=43, ppo__rounds=1)
    assert other_run[1].weights_digest() != uninterrupted[1].weights_digest()
    assert rounds_csv(other_run[0]).splitlines()[1] != rounds_csv(uninterrupted[0]).splitlines()[1]


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_an_uninterrupted_one(uninterrupted, tmp_path, rounds):
    directory, controller, _, done = run(tmp_path, stop_after=lambda watcher: len(watcher.rows) == rounds)
    assert done is False
    assert controller.progress.round_index == rounds
    assert len(directory.rounds()) == rounds
    _, resumed, watcher, done = run(tmp_path, resume=directory.path)
    assert done is True
    assert [row["round"] for row, _ in watcher.rows] == list(range(rounds, 3))
    assert rounds_csv(directory) == rounds_csv(uninterrupted[0])
    assert resumed.weights_digest() == uninterrupted[1].weights_digest()
    assert events(directory) == events(uninterrupted[0])
    assert resumed.progress.env_steps == uninterrupted[1].progress.env_steps == 18
    assert resumed.progress.best == uninterrupted[1].progress.best


@pytest.mark.slow
def test_an_interruption_within_a_round_leaves_only_the_finished_rounds(uninterrupted, tmp_path):
    """Stopped in the second episode of the second round; records after the checkpoint are truncated."""
    directory, controller, watcher, done = run(
        tmp_path, stop_after=lambda w: ("episode", 2) in w.events and w.events[-1] == ("episode", 2)
    )
    assert done is False
    assert watcher.events[-1] == ("episode", 2)
    assert controller.progress.round_index == 1
    assert [path.name for path in checkpoints_in(directory.checkpoints)] == ["round-00000", "round-00001"]
    assert len(directory.rounds()) == 1
    assert events(directory)[-1]["kind"] == "round"
    directory.log([{"kind": "run_started", "config_sha256": "half a round"}] * 3)
    directory.add_round({"round": 1}, {"round": 1})
    _, resumed, _, _ = run(tmp_path, resume=directory.path)
    assert rounds_csv(directory) == rounds_csv(uninterrupted[0])
    assert events(directory) == events(uninterrupted[0])
    assert resumed.weights_digest() == uninterrupted[1].weights_digest()
    assert len((directory.path / "timings.csv").read_text().splitlines()) == 4


def test_a_stop_request_before_the_first_round_leaves_the_untrained_policy(tmp_path):
    directory, controller, watcher, done = run(tmp_path, stop_after=lambda w: True)
    assert (done, watcher.events, controller.progress.round_index) == (False, [], 0)
    assert [path.name for path in checkpoints_in(directory.checkpoints)] == ["round-00000"]
    assert rounds_csv(directory) == b""


def test_resuming_a_finished_run_changes_nothing(uninterrupted, tmp_path):
    before = rounds_csv(uninterrupted[0])
    _, controller, watcher, done = run(tmp_path, resume=uninterrupted[0].path)
    assert (done, watcher.events) == (True, [])
    assert rounds_csv(uninterrupted[0]) == before
    assert controller.weights_digest() == uninterrupted[1].weights_digest()


def test_the_observer_receives_the_events_of_a_round_in_order(uninterrupted):
    assert uninterrupted[2].events == [
        *[("episode", 0), ("episode", 1), ("updating",), ("round", 0)],
        *[("episode", 2), ("episode", 3), ("updating",), ("round", 1)],
        *[("episode", 4), ("episode", 5), ("updating",), ("round", 2)],
    ]


def test_a_row_of_rounds_agrees_with_the_events_of_its_episodes(uninterrupted):
    directory = uninterrupted[0]
    for index, row in enumerate(directory.rounds()):
        outcomes = [e for e in directory.events() if e["kind"] == "outcome" and e["round"] == index]
        steps = [e for e in directory.events() if e["kind"] == "env_epoch" and e["round"] == index]
        assert len(outcomes) == int(row["episodes"]) == 2
        rewards = [outcome["total_reward"] for outcome in outcomes]
        assert float(row["return_mean"]) == pytest.approx(sum(rewards) / 2, abs=1e-12)
        assert float(row["return_std"]) == pytest.approx(abs(rewards[0] - rewards[1]) / 2, abs=1e-12)
        accuracies = [outcome["val_accuracy_pp"] for outcome in outcomes]
        assert float(row["val_accuracy_ratio"]) == pytest.approx(sum(accuracies) / 200, abs=1e-12)
        counts = {key: int(value) for key, value in row.items() if key.startswith("op_")}
        assert sum(counts.values()) == 6
        assert counts["op_wait"] == sum(step["operation"] == "WAIT" for step in steps)
        assert int(row["env_steps"]) == 6 * (index + 1)
        assert {outcome["seed"] for outcome in outcomes} == {episode_seed(42, index, env) for env in range(2)}
        assert DIAGNOSTICS[0] in row
    assert [float(row["epsilon"]) for row in directory.rounds()] == pytest.approx([0.1, 0.1 / 6, 0.0])


def test_the_best_episode_is_the_first_one_with_the_highest_accuracy(uninterrupted):
    outcomes = [e for e in uninterrupted[0].events() if e["kind"] == "outcome"]
    best = max(outcomes, key=lambda outcome: outcome["val_accuracy_pp"])
    assert uninterrupted[1].progress.best == {"episode": best["episode"], "val_accuracy_pp": best["val_accuracy_pp"]}


def test_the_newest_checkpoints_and_that_of_the_best_round_are_kept(uninterrupted):
    """The newest two, and that of the policy that played the best round."""
    names = [path.name for path in checkpoints_in(uninterrupted[0].checkpoints)]
    accuracies = [float(row["val_accuracy_ratio"]) for row in uninterrupted[0].rounds()]
    best = accuracies.index(max(accuracies))
    assert uninterrupted[1].progress.best_round == {
        "round": best,
        "val_accuracy_ratio": max(accuracies),
        "checkpoint": best,
    }
    assert names == [f"round-{index:05d}" for index in sorted({best, 2, 3})]
    tree = state_of(uninterrupted[0].checkpoints / "round-00003")
    assert (tree["round"], tree["progress"]["round_index"]) == (3, 3)
    assert tree["position"]["events"]["sequence"] == len(list(uninterrupted[0].events()))
    for name in ("rounds", "timings"):
        content = (uninterrupted[0].path / f"{name}.csv").read_bytes()
        assert tree["position"][name] == {"size": len(content), "sha256": sha256(content).hexdigest()}


def test_a_checkpoint_of_another_configuration_is_refused(uninterrupted):
    newest = checkpoints_in(uninterrupted[0].checkpoints)[-1]
    with pytest.raises(CheckpointError, match="config_sha256"):
        load_checkpoint(newest, small_config(**(SETTINGS | {"ppo__lr": 1e-3})))
