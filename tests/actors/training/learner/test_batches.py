"""Padded batches, ratios, targets and losses of the learner before a step."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from learner_builders import behaved, changed, drawn, open_masks, small_config, synthetic, with_returns

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.training.learner.batches import PaddedBatch, padded_batch
from esper_actors.training.learner.ppo import PPOLearner, Targets, entropy_coefficient, exploration_share, learning_rate
from esper_actors.training.local import LocalWorkerGroup
from esper_actors.training.workers import QUIET, play_round
from esper_ray.leyline.config.run import PPOConfig

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rollout():
    """A worker group and one round of real episodes, played with exploration."""
    config = small_config(episode_length=6, system__envs=3, ppo__minibatch_episodes=3, ppo__epochs=1)
    workers = LocalWorkerGroup(config)
    assignments = [Assignment(i, i, episode_seed(1, 0, i)) for i in range(3)]
    return workers, play_round(workers, assignments, 0.1)


@pytest.fixture
def learner():
    return with_returns(PPOLearner(small_config(ppo__lr=3e-3)))


def uneven_episodes(learner):
    """Three episodes of 6, 3 and 1 steps with rewards and actions of all kinds."""
    rng = np.random.default_rng(0)
    episodes = [drawn(learner, synthetic(n, rng.normal(size=n), seed=n), seed=n) for n in (6, 3, 1)]
    return [changed(e, bootstrap=0.3 * i) for i, e in enumerate(episodes)]


def test_the_ratio_to_stored_log_probabilities_is_one_on_a_real_rollout(rollout):
    """Acting advances the memory step by step, learning unrolls whole episodes; both must agree."""
    workers, episodes = rollout
    batch = padded_batch(episodes, CPU)
    with torch.no_grad():
        _, op, arguments, *_ = workers.learner._evaluate(batch, 0.1)
    assert (op - batch.log_prob_op.flatten()).abs().max() < 1e-5
    assert (arguments - batch.log_prob_arguments.flatten()).abs().max() < 1e-5
    assert (batch.log_prob_arguments < -0.1).any()
    _, op_greedy, *_ = workers.learner._evaluate(batch, 0.0)
    assert (op_greedy - batch.log_prob_op.flatten()).abs().max() > 1e-3  # exploration is part of the policy


def test_the_first_minibatch_of_every_round_has_no_kl_and_no_clipping():
    """Also in the second round, after normalizer and unit of value have changed."""
    config = small_config(ppo__epochs=1, ppo__minibatch_episodes=2, ppo__epsilon_start=0.3)
    workers = LocalWorkerGroup(config)
    for index in range(2):
        assignments = [Assignment(i, i, episode_seed(1, index, i)) for i in range(2)]
        episodes = play_round(workers, assignments, exploration_share(config.ppo, index))
        report = workers.update(episodes, index, QUIET)
        assert abs(report["kl"]) < 1e-6
        assert report["clip_share"] == 0.0
        assert report["optimizer_steps"] == 1


def test_padding_is_masked_out(learner):
    batch = padded_batch(uneven_episodes(learner), CPU)
    assert batch.valid_mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    for weights in (batch.choice_mask, batch.argument_mask):
        assert (weights <= batch.valid_mask).all()
    assert (batch.rewards[batch.valid_mask == 0] == 0).all()
    assert batch.bootstrap.tolist() == pytest.approx([0.0, 0.3, 0.6])


def test_masks_mark_steps_with_a_choice_and_steps_that_read_arguments():
    learner = PPOLearner(small_config())
    forced = open_masks(2)
    forced.slot_by_op[1:] = False
    wait, commit = [0] * 8, [4, 1, 0, 0, 0, 0, 0, 0]
    episodes = [
        behaved(learner, synthetic(2, [0.0, 0.0], 1), [wait, commit]),
        behaved(learner, synthetic(2, [0.0, 0.0], 2, masks=forced), [wait, wait]),
    ]
    batch = padded_batch(episodes, CPU)
    assert batch.choice_mask.tolist() == [[1, 1], [0, 0]]
    assert batch.argument_mask.tolist() == [[0, 1], [0, 0]]


def losses(learner, batch, targets, entropy_weight=0.02):
    losses = learner._losses(batch, targets, 0.0, entropy_weight)
    report, loss = losses.report, losses.policy + losses.value
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [p.grad.clone() for p in learner.network.parameters() if p.grad is not None]
    return report, loss.item(), gradients


def perturb_weights(learner):
    """Move the weights away from the behaviour policy, so that ratios differ from one."""
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def test_a_padded_episode_has_the_losses_of_the_unpadded_one(learner):
    episodes = uneven_episodes(learner)
    perturb_weights(learner)
    padded = padded_batch(episodes, CPU).rows(torch.tensor([1]))
    unpadded = padded_batch(episodes[1:2], CPU)
    expected = losses(learner, unpadded, learner._targets(unpadded))
    result = losses(learner, padded, learner._targets(padded))
    assert result[0] == pytest.approx(expected[0], abs=1e-6)
    assert result[1] == pytest.approx(expected[1], abs=1e-6)
    for grad, expected_gradient in zip(result[2], expected[2], strict=True):
        torch.testing.assert_close(grad, expected_gradient, atol=1e-6, rtol=1e-4)
    assert abs(expected[0]["policy_loss"]) > 1e-3
    assert expected[0]["kl"] > 1e-4


def test_losses_of_a_padded_batch_are_weighted_means_over_episodes(learner):
    episodes = uneven_episodes(learner)
    perturb_weights(learner)
    batch = padded_batch(episodes, CPU)
    targets = learner._targets(batch)
    total_report, _, _ = losses(learner, batch, targets)
    singles = []
    for index, episode in enumerate(episodes):
        steps = len(episode.trajectory)
        episode_targets = Targets(*(getattr(targets, name)[index : index + 1, :steps] for name in Targets.__slots__))
        singles.append((steps, losses(learner, padded_batch([episode], CPU), episode_targets)[0]))
    for name in ("policy_loss", "value_loss", "entropy", "kl", "clip_share"):
        assert total_report[name] == pytest.approx(sum(n * report[name] for n, report in singles) / 10, abs=1e-5)


def test_values_in_the_padding_do_not_change_losses_and_gradients(learner):
    batch = padded_batch(uneven_episodes(learner), CPU)
    targets = learner._targets(batch)
    perturb_weights(learner)
    expected, _, gradients = losses(learner, batch, targets)
    padding = batch.valid_mask == 0
    garbage = {
        name: torch.where(padding.reshape(3, 6, *[1] * (getattr(batch, name).dim() - 2)), value, getattr(batch, name))
        for name, value in (("features", 3.0), ("log_prob_op", -5.0), ("values", 70.0), ("q_taken", 70.0))
    }
    with_garbage = replace(batch, **garbage)
    result, _, garbage_gradients = losses(learner, with_garbage, learner._targets(with_garbage))
    assert result == pytest.approx(expected, abs=1e-6)
    for grad, expected_gradient in zip(garbage_gradients, gradients, strict=True):
        torch.testing.assert_close(grad, expected_gradient, atol=1e-6, rtol=1e-4)
    assert {field.name for field in fields(PaddedBatch)} >= garbage.keys()


def test_advantages_of_both_baselines_equal_values_computed_by_hand():
    """Two steps of gamma 0.5, lambda 1: returns 1 + 0.5 * 3 = 2.5 and 3; V = (1, 2), Q = (2, 5)."""
    learner = with_returns(PPOLearner(small_config(gamma=0.5, ppo__gae_lambda=1.0)))
    commit = [4, 1, 0, 0, 0, 0, 0, 0]
    episode = behaved(learner, synthetic(2, [1.0, 3.0]), [commit, commit])
    numbers = {"values": np.float32([1.0, 2.0]), "q_taken": np.float32([2.0, 5.0])}
    targets = learner._targets(padded_batch([changed(episode, **numbers)], CPU))
    assert targets.returns.tolist() == [[2.5, 3.0]]
    assert targets.op.tolist() == [[pytest.approx(1.0), pytest.approx(-1.0)]]  # 1.5 and 1.0, standardised
    assert targets.arguments.tolist() == [[pytest.approx(1.0), pytest.approx(-1.0)]]  # 0.5 and -2.0


def test_a_terminated_episode_is_not_bootstrapped_and_a_truncated_one_is():
    learner = PPOLearner(small_config(gamma=0.5, ppo__gae_lambda=1.0))
    episode = behaved(learner, synthetic(1, [1.0]), [[0] * 8])
    for bootstrap, expected in ((0.0, 1.0), (4.0, 3.0)):
        targets = learner._targets(padded_batch([changed(episode, bootstrap=bootstrap)], CPU))
        assert targets.returns.tolist() == [[pytest.approx(expected)]]


@pytest.mark.parametrize(
    ("index", "expected"), [(0, 0.1), (1, 0.1 * 3.8 / 4.8), (4, 0.1 * 0.8 / 4.8), (5, 0.0), (11, 0.0)]
)
def test_exploration_decays_to_zero_over_its_share_of_the_rounds(index, expected):
    settings = PPOConfig(rounds=12, epsilon_start=0.1, epsilon_fraction=0.4)
    assert exploration_share(settings, index) == pytest.approx(expected)


def test_exploration_over_no_rounds_is_zero():
    assert exploration_share(PPOConfig(rounds=12, epsilon_start=0.5, epsilon_fraction=0.0), 0) == 0.0


@pytest.mark.parametrize(("index", "expected"), [(0, 0.02), (2, 0.014), (5, 0.005), (9, 0.005)])
def test_the_entropy_coefficient_decays_from_start_to_end(index, expected):
    settings = PPOConfig(rounds=6, entropy_start=0.02, entropy_end=0.005)
    assert entropy_coefficient(settings, index) == pytest.approx(expected)


@pytest.mark.parametrize(("index", "expected"), [(0, 1e-3), (2, 7e-4), (5, 2.5e-4), (9, 2.5e-4)])
def test_the_learning_rate_decays_from_start_to_end(index, expected):
    assert learning_rate(PPOConfig(rounds=6, lr=1e-3, lr_end=2.5e-4), index) == pytest.approx(expected)
    assert learning_rate(PPOConfig(rounds=6, lr=1e-3), index) == 1e-3


def test_the_entropy_coefficient_of_a_single_round_is_the_start_value():
    assert entropy_coefficient(PPOConfig(rounds=1), 0) == 0.02
    assert math.isfinite(entropy_coefficient(PPOConfig(rounds=1), 1))
