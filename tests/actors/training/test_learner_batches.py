"""What the learner makes of its episodes before it takes a step: batches, ratios, losses."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from learner_builders import behaved, changed, drawn, open_masks, small_config, synthetic

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.training.local import LocalWorkerGroup
from esper_actors.training.ppo_learner import (
    PaddedBatch,
    PPOLearner,
    Targets,
    entropy_coefficient,
    exploration_share,
    padded_batch,
)
from esper_actors.training.workers import QUIET, play_round
from esper_ray.leyline.config.run import PPOConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rollout():
    """A workers and one round of real episodes, played with exploration."""
    config = small_config(episode_length=6, system__envs=3, ppo__minibatch_episodes=3, ppo__epochs=1)
    workers = LocalWorkerGroup(config)
    assignments = [Assignment(i, i, episode_seed(1, 0, i)) for i in range(3)]
    return workers, play_round(workers, assignments, 0.1)


@pytest.fixture
def learner():
    return PPOLearner(small_config(ppo__lr=3e-3))


def uneven(learner):
    """Three episodes of 6, 3 and 1 steps with rewards and actions of all kinds."""
    rng = np.random.default_rng(0)
    episodes = [drawn(learner, synthetic(n, rng.normal(size=n), seed=n), seed=n) for n in (6, 3, 1)]
    return [changed(e, bootstrap=0.3 * i) for i, e in enumerate(episodes)]


def test_the_ratio_to_the_stored_log_probabilities_is_one_on_a_real_rollout(rollout):
    """Acting goes step by step through the memory, learning unrolls whole episodes: both must agree."""
    workers, episodes = rollout
    batch = padded_batch(episodes, CPU)
    with torch.no_grad():
        _, op, arguments, _ = workers.learner._evaluate(batch, 0.1)
    assert (op - batch.log_prob_op.flatten()).abs().max() < 1e-5
    assert (arguments - batch.log_prob_arguments.flatten()).abs().max() < 1e-5
    assert (batch.log_prob_arguments < -0.1).any()
    _, wrong, _, _ = workers.learner._evaluate(batch, 0.0)
    assert (wrong - batch.log_prob_op.flatten()).abs().max() > 1e-3  # the share of exploration is part of it


def test_the_first_minibatch_of_every_round_has_no_divergence_and_no_clipping():
    """In the second round too, when normaliser and unit of value have moved."""
    config = small_config(ppo__epochs=1, ppo__minibatch_episodes=2, ppo__epsilon_start=0.3)
    workers = LocalWorkerGroup(config)
    for index in range(2):
        assignments = [Assignment(i, i, episode_seed(1, index, i)) for i in range(2)]
        episodes = play_round(workers, assignments, exploration_share(config.ppo, index))
        report = workers.update(episodes, index, QUIET)
        assert abs(report["kl"]) < 1e-6
        assert report["clip_share"] == 0.0
        assert report["optimizer_steps"] == 1


def test_padding_is_played_by_nobody(learner):
    batch = padded_batch(uneven(learner), CPU)
    assert batch.valid_mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    for weights in (batch.choice_mask, batch.argument_mask):
        assert (weights <= batch.valid_mask).all()
    assert (batch.rewards[batch.valid_mask == 0] == 0).all()
    assert batch.bootstrap.tolist() == pytest.approx([0.0, 0.3, 0.6])


def test_weights_say_where_there_was_a_choice_and_where_arguments_were_read():
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
    report, loss = learner._losses(batch, targets, 0.0, entropy_weight)
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [p.grad.clone() for p in learner.network.parameters() if p.grad is not None]
    return report, loss.item(), gradients


def moved(learner):
    """Away from the behaviour policy, so that ratios differ from one."""
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def test_an_episode_padded_by_longer_ones_has_the_losses_of_the_unpadded_one(learner):
    episodes = uneven(learner)
    moved(learner)
    padded = padded_batch(episodes, CPU).rows(torch.tensor([1]))
    alone = padded_batch(episodes[1:2], CPU)
    expected = losses(learner, alone, learner._targets(alone))
    found = losses(learner, padded, learner._targets(padded))
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert found[1] == pytest.approx(expected[1], abs=1e-6)
    for grad, other in zip(found[2], expected[2], strict=True):
        torch.testing.assert_close(grad, other, atol=1e-6, rtol=1e-4)
    assert abs(expected[0]["policy_loss"]) > 1e-3
    assert expected[0]["kl"] > 1e-4


def test_losses_of_a_padded_batch_are_weighted_means_over_episodes(learner):
    episodes = uneven(learner)
    moved(learner)
    batch = padded_batch(episodes, CPU)
    targets = learner._targets(batch)
    whole, _, _ = losses(learner, batch, targets)
    singles = []
    for index, episode in enumerate(episodes):
        steps = len(episode.trajectory)
        own = Targets(*(getattr(targets, name)[index : index + 1, :steps] for name in Targets.__slots__))
        singles.append((steps, losses(learner, padded_batch([episode], CPU), own)[0]))
    for name in ("policy_loss", "value_loss", "entropy", "kl", "clip_share"):
        assert whole[name] == pytest.approx(sum(n * report[name] for n, report in singles) / 10, abs=1e-5)


def test_what_stands_in_the_padding_does_not_matter(learner):
    batch = padded_batch(uneven(learner), CPU)
    targets = learner._targets(batch)
    moved(learner)
    expected, _, gradients = losses(learner, batch, targets)
    hidden = batch.valid_mask == 0
    garbage = {
        name: torch.where(hidden.reshape(3, 6, *[1] * (getattr(batch, name).dim() - 2)), value, getattr(batch, name))
        for name, value in (("features", 3.0), ("log_prob_op", -5.0), ("values", 70.0), ("q_taken", 70.0))
    }
    spoilt = replace(batch, **garbage)
    found, _, again = losses(learner, spoilt, learner._targets(spoilt))
    assert found == pytest.approx(expected, abs=1e-6)
    for grad, other in zip(again, gradients, strict=True):
        torch.testing.assert_close(grad, other, atol=1e-6, rtol=1e-4)
    assert {field.name for field in fields(PaddedBatch)} >= garbage.keys()


def test_baselines_by_hand():
    """Two steps of gamma 0.5, lambda 1: returns 1 + 0.5 * 3 = 2.5 and 3; V = (1, 2), Q = (2, 5)."""
    learner = PPOLearner(small_config(gamma=0.5, ppo__gae_lambda=1.0))
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
def test_exploration_falls_to_zero_over_its_share_of_the_rounds(index, expected):
    settings = PPOConfig(rounds=12, epsilon_start=0.1, epsilon_fraction=0.4)
    assert exploration_share(settings, index) == pytest.approx(expected)


def test_exploration_over_no_rounds_is_none():
    assert exploration_share(PPOConfig(rounds=12, epsilon_start=0.5, epsilon_fraction=0.0), 0) == 0.0


@pytest.mark.parametrize(("index", "expected"), [(0, 0.02), (2, 0.014), (5, 0.005), (9, 0.005)])
def test_the_entropy_bonus_moves_from_start_to_end(index, expected):
    settings = PPOConfig(rounds=6, entropy_start=0.02, entropy_end=0.005)
    assert entropy_coefficient(settings, index) == pytest.approx(expected)


def test_the_entropy_bonus_of_a_single_round_is_that_of_the_start():
    assert entropy_coefficient(PPOConfig(rounds=1), 0) == 0.02
    assert math.isfinite(entropy_coefficient(PPOConfig(rounds=1), 1))
