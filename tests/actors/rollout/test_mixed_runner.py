"""Episodes of a mix of tasks: which task each is, whole rounds, and their resumption."""

import pytest
import torch
from learner_builders import SMALL

from esper_actors.rollout.mixed_runner import MixedRunner
from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.rollout.snapshots import Behaviour
from esper_actors.training.learner.ppo import PPOLearner
from esper_ray.leyline.config.loading import build, read_preset

MIX = {"task_mix": {"digits": 1, "patterns": 3}}


@pytest.fixture(scope="module")
def config():
    return build(read_preset("digits"), SMALL | MIX)


def test_each_episode_has_one_task_whatever_the_order_and_tasks_have_their_shares():
    runner = MixedRunner([(0.25, "digits"), (0.75, "patterns")])
    assignments = [Assignment(i, 0, episode_seed(42, i // 16, i % 16)) for i in range(2000)]
    drawn = [runner.runner_of(assignment) for assignment in assignments]
    assert [runner.runner_of(assignment) for assignment in reversed(assignments)] == drawn[::-1]
    assert drawn.count("digits") / 2000 == pytest.approx(0.25, abs=0.03)
    assert {MixedRunner([(1.0, "digits")]).runner_of(assignment) for assignment in assignments} == {"digits"}


@pytest.mark.integration
def test_a_learner_learns_from_episodes_of_several_tasks(config):
    """The accuracy of an untrained host on ten classes and on two shows which task an episode has played."""
    learner = PPOLearner(config)
    pool = EnvironmentPool(config, "cpu", 1)
    behaviour = Behaviour(0, learner.updates, "", 0.0)
    assignments = [Assignment(i, 0, episode_seed(config.seed, 0, i)) for i in range(6)]
    played = [pool.play(assignment, behaviour, learner.weights()).episode for assignment in assignments]
    runners = pool._environments[0].runner
    for assignment, episode in zip(assignments, played, strict=True):
        own = runners.runner_of(assignment)
        again = own.play(assignment)
        assert again.total_reward == episode.total_reward
        assert (again.trajectory.context == episode.trajectory.context).all()
    assert len({runner.env.config.task.name for runner in runners.runners}) == 2
    assert len({runners.runners.index(runners.runner_of(assignment)) for assignment in assignments}) == 2
    before = learner.weights()
    report = learner.update(played, 0)
    assert report["optimizer_steps"] > 0
    assert any(not torch.equal(before[name], tensor) for name, tensor in learner.weights().items())
