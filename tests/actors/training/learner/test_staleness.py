"""Staleness: a rollout with the previous policy is recorded, repeatable and resumable."""

import pytest
from learner_builders import small_config
from serial_runs import events, rounds_csv, run

from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.rollout.snapshots import Behaviour
from esper_actors.training.checkpoint import checkpoints_in, load_checkpoint
from esper_actors.training.learner.ppo import PPOLearner, exploration_share

pytestmark = pytest.mark.integration

STALE = {"system__staleness": 1, "ppo__checkpoints_kept": 1}


@pytest.fixture(scope="module")
def stale(tmp_path_factory):
    return run(tmp_path_factory.mktemp("stale"), **STALE)


def test_rounds_record_the_staleness_of_their_policy(stale):
    assert [int(row["staleness"]) for row in stale[0].rounds()] == [0, 1, 1]


def test_without_staleness_every_round_has_staleness_zero(tmp_path):
    assert [int(row["staleness"]) for row in run(tmp_path)[0].rounds()] == [0, 0, 0]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_first_two_rounds_are_played_by_the_untrained_policy(stale, index):
    """A repetition by that policy has equal values and log-probabilities, except in the third round."""
    config = small_config(**_settings())
    behaviour = Behaviour(index, 0, "", exploration_share(config.ppo, index))
    assignment = Assignment(2 * index, 0, episode_seed(config.seed, index, 0))
    repeated = EnvironmentPool(config, "cpu", 1).play(assignment, behaviour, PPOLearner(config).weights()).episode
    recorded = [e for e in stale[0].events() if e["kind"] == "env_epoch" and e["episode"] == assignment.index]
    played = [record for record in repeated.log if record["kind"] == "env_epoch"]
    equal = [(e["value"], e["log_prob"]) for e in recorded] == [(e["value"], e["log_prob"]) for e in played]
    assert equal is (index < 2)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_resumed_stale_run_equals_an_uninterrupted_one(stale, tmp_path, rounds):
    directory, _, _, done = run(tmp_path, stop_after=lambda watcher: len(watcher.rows) == rounds, **STALE)
    assert not done
    newest = load_checkpoint(checkpoints_in(directory.checkpoints)[-1], small_config(**_settings()))
    assert newest.stale_weights is not None
    _, resumed, _, _ = run(tmp_path, resume=directory.path, **STALE)
    assert rounds_csv(directory) == rounds_csv(stale[0])
    assert events(directory) == events(stale[0])
    assert resumed.weights_digest() == stale[1].weights_digest()


def test_the_best_checkpoint_is_that_of_the_policy_that_played_the_round(stale):
    best = stale[1].progress.best_round
    assert best["checkpoint"] == max(0, best["round"] - 1)
    assert f"round-{best['checkpoint']:05d}" in [path.name for path in checkpoints_in(stale[0].checkpoints)]


def _settings():
    from serial_runs import SETTINGS

    return SETTINGS | STALE
