"""The environment pool: parallel episodes equal sequential ones."""

from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np
import pytest

from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.snapshots import Behaviour
from esper_actors.training.learner.ppo import PPOLearner
from esper_ray.leyline.config.loading import ConfigError, build

pytestmark = pytest.mark.integration


def test_parallel_episodes_equal_sequential_ones(tiny_config):
    assignments = [Assignment(index, index, 100 + index) for index in range(6)]
    sequential, parallel = EnvironmentPool(tiny_config, "cpu", 1), EnvironmentPool(tiny_config, "cpu", 3)
    weights = PPOLearner(tiny_config).weights()
    behaviour = Behaviour(0, 0, "", 0.5)
    expected = [sequential.play(assignment, behaviour, weights).episode for assignment in assignments]
    with ThreadPoolExecutor(3) as pool:
        played = list(pool.map(lambda assignment: parallel.play(assignment, behaviour, weights).episode, assignments))
    assert len({tuple(episode.trajectory.rewards) for episode in expected}) > 1
    for actual, reference in zip(played, expected, strict=True):
        assert actual.log == reference.log
        np.testing.assert_array_equal(actual.trajectory.features, reference.trajectory.features)
        np.testing.assert_array_equal(actual.trajectory.rewards, reference.trajectory.rewards)


def test_environments_share_the_data(tiny_config):
    pool = EnvironmentPool(tiny_config, "cpu", 2)
    first, second = (environment.runner.runners[0].env.data for environment in pool._environments)
    assert first is second


def test_an_environment_is_free_again_after_an_error(tiny_config):
    pool = EnvironmentPool(tiny_config, "cpu", 1)
    weights, behaviour = PPOLearner(tiny_config).weights(), Behaviour(0, 0, "", 0.0)
    with pytest.raises(gymnasium.error.Error, match="actual value: -1"):
        pool.play(Assignment(0, 0, -1), behaviour, weights)
    played = pool.play(Assignment(0, 0, 1), behaviour, weights)
    assert len(played.episode.trajectory) == tiny_config.episode_length
    assert played.seconds > 0


def test_more_slots_than_environments_are_refused(tiny_config):
    with pytest.raises(ConfigError, match=r"slots_per_actor \(3\) must not exceed envs_per_actor \(2\)"):
        build(tiny_config.model_dump(), {"system.slots_per_actor": 3})
