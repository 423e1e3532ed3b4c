"""Episodes of the runner: records, trajectory, interruptions and illegal actions."""

import json

import numpy as np
import pytest
import torch
from learner_builders import Scripted, small_config

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner, Interrupted, episode_seed
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import WAIT, Action, LifecycleOp
from esper_ray.leyline.policy import Decision
from esper_ray.tolaria.assembly import derived_seed
from esper_ray.tolaria.governor import Governor, HealthVerdict

GROW = Action(LifecycleOp.GERMINATE, 1, tempo=0)
ADVANCE = Action(LifecycleOp.ADVANCE, 1)
PRUNE = Action(LifecycleOp.PRUNE, 1)
LIFECYCLE = [GROW, ADVANCE, WAIT, WAIT, WAIT, PRUNE]
"""Germinated, brought to TRAINING, old enough at the sixth step, pruned."""


@pytest.fixture(scope="module")
def env():
    return MorphogenesisEnv(small_config(episode_length=6, growth__auto_forward=[]))


def decisions(actions):
    return [Decision(action, -0.25 * i, -0.5 * i, 1.0 * i, 2.0 * i, f"reason {i}") for i, action in enumerate(actions)]


def scripted_runner(env, actions):
    return EpisodeRunner(env, Scripted(decisions(actions)))


@pytest.fixture(scope="module")
def played(env):
    """The runner after a scripted lifecycle, and its episode."""
    runner = scripted_runner(env, LIFECYCLE)
    return runner, runner.play(Assignment(index=12, env=3, seed=5))


def test_an_episode_carries_its_index_environment_and_seed(played):
    _, episode = played
    assert (episode.index, episode.env, episode.seed) == (12, 3, 5)
    assert all((record["episode"], record["env"]) == (12, 3) for record in episode.log)


def test_rewards_by_cause_sum_to_the_total_of_the_ledger(played):
    runner, episode = played
    assert episode.trajectory.rewards.shape == (6,)
    assert episode.trajectory.rewards.sum() == pytest.approx(runner.env.ledger.total(), abs=1e-12)
    assert episode.total_reward == runner.env.ledger.total()
    assert abs(episode.total_reward) > 1e-3
    outcome, steps = episode.log[-1], [r for r in episode.log if r["kind"] == "env_epoch"]
    assert sum(outcome["reward_by_source"].values()) == pytest.approx(episode.total_reward, abs=1e-12)
    assert sum(step["reward"] for step in steps) == pytest.approx(episode.total_reward, abs=1e-12)
    for step in steps:
        assert sum(entry["amount"] for entry in step["entries"]) == pytest.approx(step["reward"], abs=1e-12)


def test_operations_are_counted_once_a_step(played):
    _, episode = played
    assert episode.operations == {
        "WAIT": 3,
        "GERMINATE": 1,
        "SET_ALPHA_TARGET": 0,
        "PRUNE": 1,
        "FOSSILIZE": 0,
        "ADVANCE": 1,
    }
    assert (episode.refused, episode.fossilized, episode.rollback) == (0, 0, False)


def test_the_log_holds_the_records_of_the_episode_in_order(played):
    _, episode = played
    kinds = [record["kind"] for record in episode.log]
    assert kinds[0] == "episode_started"
    assert kinds[-2:] == ["env_epoch", "outcome"]
    assert kinds.count("env_epoch") == 6
    assert set(kinds) == {"episode_started", "seed_transition", "gate", "env_epoch", "outcome"}
    epochs = [record["step"] for record in episode.log if record["kind"] == "env_epoch"]
    assert epochs == [1, 2, 3, 4, 5, 6]
    transitions = [(kinds[: i + 1].count("env_epoch"), r["to"]) for i, r in enumerate(episode.log) if "to" in r]
    assert transitions[:3] == [(0, "GERMINATED"), (1, "TRAINING"), (5, "PRUNED")]  # before the record of their own step


def test_a_step_record_holds_the_decision_and_its_reason(played):
    _, episode = played
    steps = [record for record in episode.log if record["kind"] == "env_epoch"]
    assert [(s["operation"], s["slot"]) for s in steps[:3]] == [
        ("GERMINATE", "r0c1"),
        ("ADVANCE", "r0c1"),
        ("WAIT", None),
    ]
    assert [s["why"] for s in steps] == [f"reason {i}" for i in range(6)]
    assert [s["log_prob"] for s in steps] == [-0.75 * i for i in range(6)]
    assert tuple(steps[0]["action"]) == GROW.to_indices()
    assert steps[1]["slots"]["r0c1"]["stage"] == "TRAINING"
    json.dumps(episode.log, allow_nan=False)


def test_the_trajectory_holds_observations_and_decisions_of_the_policy(played):
    runner, episode = played
    trajectory, views = episode.trajectory, runner.policy.decided
    assert len(trajectory) == 6
    assert (trajectory.features == np.stack([view.features for view in views])).all()
    assert (trajectory.blueprints == np.stack([view.blueprints for view in views])).all()
    assert (trajectory.masks == np.stack([view.masks.vector() for view in views])).all()
    assert trajectory.actions.tolist() == [list(action.to_indices()) for action in LIFECYCLE]
    assert trajectory.log_prob_op.tolist() == [-0.25 * i for i in range(6)]
    assert trajectory.log_prob_arguments.tolist() == [-0.5 * i for i in range(6)]
    assert trajectory.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert trajectory.q_taken.tolist() == [0, 2, 4, 6, 8, 10]


def test_an_episode_of_full_length_has_no_bootstrap(played):
    """The length is part of the observation and the end settles all rewards, so a bootstrap would count them twice."""
    _, episode = played
    assert (episode.trajectory.terminated, episode.trajectory.bootstrap) == (False, 0.0)


def test_a_terminated_episode_has_no_bootstrap_and_a_penalty_at_its_cause(env, monkeypatch):
    verdicts = iter(
        [HealthVerdict(False, True), HealthVerdict(False, True), HealthVerdict(True, False, "test", 1.0, 0.5)]
    )
    monkeypatch.setattr(Governor, "judge", lambda self, train, val, committed: next(verdicts))
    runner = scripted_runner(env, [GROW, WAIT, WAIT])
    episode = runner.play(Assignment(0, 0, 5))
    trajectory = episode.trajectory
    assert len(trajectory) == 3
    assert (trajectory.terminated, trajectory.bootstrap, episode.rollback) == (True, 0.0, True)
    assert trajectory.rewards[0] < -9.0  # the penalty of 10 belongs to the germination
    assert trajectory.rewards[1:].min() > -1.0
    assert trajectory.rewards.sum() == pytest.approx(episode.total_reward, abs=1e-12)
    assert episode.log[-1]["rollback"] is True
    assert "rollback" in [record["kind"] for record in episode.log]


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_stop_request_interrupts_between_two_steps(env, steps):
    answers = iter([False] * steps + [True])
    runner = scripted_runner(env, LIFECYCLE)
    with pytest.raises(Interrupted):
        runner.play(Assignment(0, 0, 5), lambda: next(answers))
    assert runner.env.epoch == steps
    assert len(runner.policy.decided) == steps


def test_an_interrupted_episode_can_be_played_again(env, played):
    runner = scripted_runner(env, LIFECYCLE)
    answers = iter([False, False, True])
    with pytest.raises(Interrupted):
        runner.play(Assignment(12, 3, 5), lambda: next(answers))
    assert runner.play(Assignment(12, 3, 5)).log == played[1].log


@pytest.mark.parametrize(
    ("actions", "step"), [([ADVANCE], 1), ([GROW, GROW], 2), ([GROW, Action(LifecycleOp.FOSSILIZE, 1)], 2)]
)
def test_an_illegal_action_raises(env, actions, step):
    with pytest.raises(RuntimeError, match=rf"Scripted chose the illegal action Action\(.*\) at step {step}"):
        scripted_runner(env, actions).play(Assignment(0, 0, 5))


def test_refused_commands_are_counted(env):
    """ADVANCE to BLENDING is legal for a new seed, but its gate does not pass."""
    episode = scripted_runner(env, [GROW, ADVANCE, ADVANCE, ADVANCE, WAIT, WAIT]).play(Assignment(0, 0, 5))
    assert episode.refused == 2
    assert [r["success"] for r in episode.log if r["kind"] == "env_epoch"] == [True, True, False, False, True, True]


def test_each_episode_has_its_own_seed_and_the_policy_another_one(played):
    runner, _ = played
    assert runner.policy.begun == [derived_seed(5, 3)]
    assert runner.policy.begun != [5]
    seeds = {episode_seed(run, index, env) for run in (1, 2) for index in range(4) for env in range(4)}
    assert len(seeds) == 32
    assert episode_seed(42, 0, 1) == derived_seed(42, 0, 1)


def test_an_episode_does_not_use_the_global_generator(env):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    scripted_runner(env, LIFECYCLE).play(Assignment(0, 0, 5))
    assert torch.equal(before, torch.get_rng_state())
