"""Factor and offset of rewards: PPO learns the same policy from ``a r + b`` as from ``r``."""

import numpy as np
import pytest
import torch
from learner_builders import changed, small_config, synthetic
from variants import rest_at_night

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.training.learner.batches import padded_batch
from esper_actors.training.learner.ppo import PPOLearner
from esper_actors.training.local import LocalWorkerGroup
from esper_actors.training.workers import QUIET, play_round

pytestmark = pytest.mark.integration

ROUNDS, ENVS = 4, 4
MOVES = rest_at_night([(0.01, 20.0), (100.0, 0.0), (0.01, 0.0), (1.0, 0.0), (1.0, 20.0), (100.0, 20.0)])


def unit_config(critic, **changes):
    settings = {"episode_length": 12, "system__envs": ENVS, "ppo__epochs": 2, "ppo__lr": 1e-3, "ppo__target_kl": 0.5}
    return small_config(policy__critic=critic, seed=3, **(settings | changes))


@pytest.fixture(scope="module", params=rest_at_night(["q_op", "v"]))
def recorded(request):
    """Configuration and rounds of real episodes, the first of an untrained critic."""
    config = unit_config(request.param)
    workers, rounds = LocalWorkerGroup(config), []
    for index in range(ROUNDS):
        assignments = [Assignment(index * ENVS + i, i, episode_seed(3, index, i)) for i in range(ENVS)]
        rounds.append(play_round(workers, assignments, 0.2, round_index=index))
        workers.update(rounds[-1], index, QUIET)
    return config, rounds


def moved(learner, episodes, factor, offset, epsilon):
    """The episodes with rewards ``factor * r + offset``, and the values that this learner predicts."""
    batch = padded_batch(episodes, learner.device)
    with torch.no_grad():
        distribution, _, _, q_taken, output = learner._evaluate(batch, epsilon)
        values = learner.network.values((distribution.op.exp() * output.q).sum(dim=-1))
        q_taken = learner.network.values(q_taken)
    shape = batch.valid_mask.shape
    tables = [x.reshape(shape).numpy() for x in (values, q_taken)]
    result = []
    for row, episode in enumerate(episodes):
        steps = len(episode.trajectory)
        values, q_taken = (table[row, :steps] for table in tables)
        rewards = factor * episode.trajectory.rewards + offset
        result.append(changed(episode, rewards=rewards, values=values, q_taken=q_taken))
    return result


def history(config, rounds, factor, offset):
    """Log-probabilities of the recorded actions and diagnostics after every update, and the learner."""
    learner, log_probs, reports = PPOLearner(config), [], []
    probe = padded_batch(rounds[-1], learner.device)
    for index, episodes in enumerate(rounds):
        reports.append(learner.update(moved(learner, episodes, factor, offset, 0.2), index))
        with torch.no_grad():
            _, op, arguments, *_ = learner._evaluate(probe, 0.0)
        log_probs.append(torch.stack([op, arguments]))
    return torch.stack(log_probs), reports, learner


@pytest.fixture(scope="module")
def untransformed(recorded):
    return history(*recorded, 1.0, 0.0)


@pytest.mark.parametrize(("factor", "offset"), MOVES)
def test_policies_after_every_update_do_not_depend_on_factor_and_offset(recorded, untransformed, factor, offset):
    config, rounds = recorded
    expected, expected_reports, _ = untransformed
    log_probs, reports, _ = history(config, rounds, factor, offset)
    assert float((expected[-1] - expected[0]).abs().max()) > 0.02  # the policy does change
    torch.testing.assert_close(log_probs, expected, atol=2e-4, rtol=0)
    for report, expected_report in zip(reports, expected_reports, strict=True):
        for name in ("value_loss", "policy_loss", "explained_variance", "grad_norm"):
            assert report[name] == pytest.approx(expected_report[name], rel=1e-2, abs=1e-4), name
        assert report["low_variance"] == expected_report["low_variance"]
        assert report["value_loss"] < 5.0
        assert report["return_variance"] == pytest.approx(factor**2 * expected_report["return_variance"], rel=1e-3)


@pytest.mark.parametrize(("factor", "offset"), MOVES)
def test_a_saved_learner_learns_on_from_moved_rewards_bit_for_bit(recorded, factor, offset):
    config, rounds = recorded
    learner = history(config, rounds[:2], factor, offset)[2]
    resumed = PPOLearner(config)
    resumed.load(learner.state())
    episodes = moved(learner, rounds[2], factor, offset, 0.2)
    assert resumed.update(episodes, 2) == pytest.approx(learner.update(episodes, 2), nan_ok=True, abs=0)
    first, second = learner.state(), resumed.state()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert first.numbers == second.numbers


@pytest.mark.parametrize("reward", [0.0, 20.0, -0.3])
def test_rounds_of_equal_rewards_teach_the_policy_nothing_but_the_bonus(reward):
    """Rounding is not standardised to advantages: without an entropy bonus no head changes."""
    config = small_config(ppo__entropy_start=0.0, ppo__entropy_end=0.0)
    learner = PPOLearner(config)
    before = learner.weights()
    for index in range(3):
        episodes = [synthetic(30, np.full(30, reward), seed=10 * index + i) for i in range(3)]
        report = learner.update(moved(learner, episodes, 1.0, 0.0, 0.0), index)
        assert report["low_variance"] == 1.0
    after = learner.weights()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("op_head"))


def test_an_early_end_loses_the_pay_of_the_missing_steps():
    """Two episodes of 3 and 12 steps that pay 1 each: the value of the short one's end is that of nine unpaid steps."""
    learner = PPOLearner(unit_config("q_op", gamma=1.0))
    short, long = (synthetic(n, np.ones(n), seed=n) for n in (3, 12))
    learner._learn_returns([short, long])
    assert learner._centred(short).trajectory.bootstrap == -9.0
    assert learner._centred(changed(short, terminated=False)).trajectory.bootstrap == 0.0
    assert learner._centred(long).trajectory.bootstrap == 0.0
