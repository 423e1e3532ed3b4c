"""Diagnostics of an update that only its event carries."""

import math

import numpy as np
import pytest
import torch
from learner_builders import drawn, small_config, synthetic

from esper_actors.training.learner.batches import padded_batch
from esper_actors.training.learner.gradients import backward_apart
from esper_actors.training.learner.ppo import PPOLearner
from esper_actors.training.round_summary import DIAGNOSTICS
from esper_ray.leyline.actions import HEADS
from esper_ray.nissa.catalogue.kinds import KINDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def played():
    learner = PPOLearner(small_config(ppo__epochs=2))
    rng = np.random.default_rng(5)
    drafts = [synthetic(6, rng.normal(size=6), seed=i) for i in range(4)]
    episodes = [drawn(learner, draft, i) for i, draft in enumerate(drafts)]
    batch = padded_batch([learner._centred(episode) for episode in episodes], learner.device)
    return learner, episodes, batch, learner.update(episodes, 0)


def test_an_update_reports_every_declared_number_and_no_other(played):
    *_, report = played
    assert set(report) == set(KINDS["ppo_update"].by_name)
    assert set(DIAGNOSTICS) < set(report)


def test_the_shares_of_choices_and_the_state_are_plausible(played):
    learner, _, batch, report = played
    assert report["choice_share_op"] == pytest.approx(float((batch.choice_mask * batch.valid_mask).sum()) / 24)
    assert 0 < report["memory_rms"] < 10
    assert report["learning_rate"] == learner.config.ppo.lr
    assert report["log_prob_min"] == pytest.approx(float((batch.log_prob_op + batch.log_prob_arguments).min()))


def test_the_normaliser_drifts_from_its_initial_means(played):
    learner, *_, report = played
    normaliser = learner.network.normaliser
    means = torch.cat([normaliser.base_mean, normaliser.slot_mean])
    deviations = torch.cat([normaliser.base_deviation, normaliser.slot_deviation])
    assert report["observation_drift_sigma"] == pytest.approx(float(((means / deviations) ** 2).mean().sqrt()))
    assert 0.0 <= report["observation_clipped_share"] < 0.1


def test_a_round_without_usable_episodes_reports_no_number(played):
    learner, *_ = played
    fresh = PPOLearner(learner.config)
    damaged = [drawn(fresh, synthetic(3, [math.nan] * 3, seed=7), 0)]
    report = fresh.update(damaged, 0)
    assert set(report) == set(KINDS["ppo_update"].by_name)
    assert math.isnan(report["value_nrmse"])
    assert math.isnan(report["observation_drift_sigma"])


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_norms_of_heads_are_those_before_clipping(limit):
    learner = PPOLearner(small_config())
    episodes = [drawn(learner, synthetic(5, [1.0, -1.0, 0.5, 0.0, 2.0], seed=i), i) for i in range(2)]
    batch = padded_batch(episodes, learner.device)
    distribution, log_prob, arguments, q, output = learner._evaluate(batch, 0.0)
    policy, value = -(log_prob + arguments).mean() - distribution.entropy().mean(), (q**2).mean()
    expected = {
        head: torch.autograd.grad(policy, parameters, retain_graph=True)
        for head, parameters in learner.network.head_parameters().items()
    }
    norms = backward_apart(learner.network, output, policy, value, limit).heads
    assert tuple(norms) == HEADS
    for head, gradients in expected.items():
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        assert float(norms[head]) == pytest.approx(norm, rel=1e-3, abs=1e-9), head
