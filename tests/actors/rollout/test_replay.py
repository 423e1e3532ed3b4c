"""Replay of recorded episodes: no difference if unchanged, else the first one."""

import copy

import pytest

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.replay import ReplayError, recorded_episode, replay
from esper_actors.rollout.runner import EpisodeRunner
from esper_actors.training.learner.ppo import PPOLearner
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.config.loading import build
from esper_ray.nissa.log.finite import json_record

pytestmark = pytest.mark.integration

QUICK = {"episode_length": 12, "growth.min_training_epochs": 0, "growth.min_gradient_health": 0.0}


@pytest.fixture(scope="module")
def env(tiny_config):
    return MorphogenesisEnv(build(tiny_config.model_dump(), QUICK))


@pytest.fixture(scope="module")
def records(tiny_config, env):
    """A whole episode of an untrained policy, as the event log holds it."""
    policy = LearnedPolicy(tiny_config.policy)
    policy.load(PPOLearner(tiny_config).weights(), 1.0)
    log = EpisodeRunner(env, policy).play(Assignment(4, 1, 77)).log
    return [json_record(record) | {"source": "env-1", "source_seq": 30 + i} for i, record in enumerate(log)]


def test_an_unchanged_episode_has_no_difference(env, records):
    assert {"gate", "env_epoch"} <= {record["kind"] for record in records}
    result = replay(env, recorded_episode(records, 4))
    assert (result.steps, result.recorded, result.difference) == (12, 12, None)


def changed(records, index, **values):
    copies = copy.deepcopy(records)
    copies[index] |= values
    return copies


def step_index(records, epoch):
    return next(i for i, r in enumerate(records) if r["kind"] == "env_epoch" and r["step"] == epoch)


@pytest.mark.parametrize("key", ["reward", "val_loss", "train_loss", "total_parameters"])
def test_a_difference_in_the_last_digit_is_reported(env, records, key):
    at = step_index(records, 5)
    value = records[at][key]
    result = replay(env, changed(records, at, **{key: value + abs(value) * 1e-15 + 1e-300}))
    if value + abs(value) * 1e-15 + 1e-300 == value:
        pytest.skip("too small a number to change by that")
    assert (result.steps, result.difference.epoch) == (5, 5)
    assert result.difference.what == f"env_epoch {key}"
    assert result.difference.replayed == value


def test_another_action_differs_in_its_step_at_the_latest(env, records):
    at = next(i for i, r in enumerate(records) if r["kind"] == "env_epoch" and r["operation"] == "GERMINATE")
    result = replay(env, changed(records, at, action=[0] * 8))
    assert result.difference.epoch <= records[at]["step"]


def test_another_seed_differs_before_the_first_step(env, records):
    result = replay(env, changed(records, 0, seed=78))
    assert (result.steps, result.difference.epoch) == (0, 0)
    assert result.difference.what.startswith("episode_started")


def test_outputs_of_the_policy_are_not_compared(env, records):
    at = step_index(records, 3)
    assert replay(env, changed(records, at, why="otherwise", log_prob=-1.0, value=3.0)).difference is None


def test_a_missing_event_is_a_difference(env, records):
    at = next(i for i, r in enumerate(records) if r["kind"] == "gate")
    result = replay(env, records[:at] + records[at + 1 :])
    assert result.difference is not None


def test_an_earlier_end_of_the_episode_is_a_difference(env, records):
    shorter = records[: step_index(records, 9) + 1] + records[-1:]
    result = replay(env, shorter)
    assert result.difference.what == "end of the episode"
    assert (result.difference.recorded, result.difference.replayed) == (True, False)


def test_an_episode_that_is_missing_or_incomplete_is_refused(records):
    with pytest.raises(ReplayError, match="episode 9 was not recorded; the log holds 4 to 4"):
        recorded_episode(records, 9)
    with pytest.raises(ReplayError, match="episode 4 is not complete: it ends with 'attribution'"):
        recorded_episode(records[:-1], 4)
    with pytest.raises(ReplayError, match="episode 4 is not complete: of its records 2 are missing"):
        recorded_episode([*records[:5], *records[7:]], 4)
    with pytest.raises(ReplayError, match="the log holds none"):
        recorded_episode([], 0)
