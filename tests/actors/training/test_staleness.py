"""A policy that plays one version behind the one that learns: measured, repeatable, resumable."""

import pytest
from learner_builders import small_config
from serial_runs import events, rounds_csv, run

from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.rollout.snapshots import Behaviour
from esper_actors.training.checkpoint import checkpoints_in, load_checkpoint
from esper_actors.training.ppo_learner import PPOLearner, exploration_share

pytestmark = pytest.mark.integration

STALE = {"system__staleness": 1, "ppo__checkpoints_kept": 1}


@pytest.fixture(scope="module")
def stale(tmp_path_factory):
    return run(tmp_path_factory.mktemp("stale"), **STALE)


def test_rounds_say_how_far_behind_they_were_played(stale):
    assert [int(row["staleness"]) for row in stale[0].rounds()] == [0, 1, 1]


def test_without_staleness_nothing_is_behind(tmp_path):
    assert [int(row["staleness"]) for row in run(tmp_path)[0].rounds()] == [0, 0, 0]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_first_two_rounds_are_played_by_the_untrained_policy(stale, index):
    """Played again by it, they have the same values and log-probabilities; the third has not."""
    config = small_config(**_settings())
    behaviour = Behaviour(index, 0, "", exploration_share(config.ppo, index))
    assignment = Assignment(2 * index, 0, episode_seed(config.seed, index, 0))
    again = EnvironmentPool(config, "cpu", 1).play(assignment, behaviour, PPOLearner(config).weights()).episode
    recorded = [e for e in stale[0].events() if e["kind"] == "env_epoch" and e["episode"] == assignment.index]
    played = [record for record in again.log if record["kind"] == "env_epoch"]
    same = [(e["value"], e["log_prob"]) for e in recorded] == [(e["value"], e["log_prob"]) for e in played]
    assert same is (index < 2)


@pytest.mark.parametrize("first", [1, 2])
def test_a_stale_run_that_is_interrupted_equals_one_that_is_not(stale, tmp_path, first):
    directory, _, _, done = run(tmp_path, stop_after=lambda watcher: len(watcher.rows) == first, **STALE)
    assert not done
    newest = load_checkpoint(checkpoints_in(directory.checkpoints)[-1], small_config(**_settings()))
    assert newest.stale_weights is not None
    _, resumed, _, _ = run(tmp_path, resume=directory.path, **STALE)
    assert rounds_csv(directory) == rounds_csv(stale[0])
    assert events(directory) == events(stale[0])
    assert resumed.weights_digest() == stale[1].weights_digest()


def test_the_checkpoint_of_the_best_round_is_that_of_the_policy_that_played_it(stale):
    best = stale[1].progress.best_round
    assert best["checkpoint"] == max(0, best["round"] - 1)
    assert f"round-{best['checkpoint']:05d}" in [path.name for path in checkpoints_in(stale[0].checkpoints)]


def _settings():
    from serial_runs import SETTINGS

    return SETTINGS | STALE
