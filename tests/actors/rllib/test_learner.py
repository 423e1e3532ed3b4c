"""RLlib's learner with our loss: on equal episodes it equals our learner."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from learner_builders import drawn, open_masks, small_config, synthetic
from rllib_builders import as_rllib_episode, perturbed_weights, some_masks

from esper_actors.training.learner.batches import padded_batch
from esper_actors.training.learner.ppo import PPOLearner
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.legality import Masks
from esper_ray.simic import ppo
from esper_ray.simic.normalisation import ReturnStatistics
from esper_ray.simic.running_moments import Moments

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]


@pytest.fixture
def pair(config, learner):
    """Our learner and RLlib's with equal weights, and equal episodes of 6, 3 and 4 steps for each."""
    ours, module = PPOLearner(config), learner.module["default_policy"]
    for each in (ours, learner):
        each.returns = ReturnStatistics(0.5, Moments(4.0, np.array([-0.25]), np.array([36.0])))
    ours.network.renormalise_values(-0.25, 3.0)
    module.network.load_state_dict(ours.network.state_dict())
    only_wait = Masks(np.zeros((6, 3), bool), open_masks(3).arguments)
    only_wait.slot_by_op[LifecycleOp.WAIT] = True
    plans = [(6, some_masks()), (3, open_masks(3)), (4, only_wait)]
    rng = np.random.default_rng(0)
    our_episodes = [
        drawn(ours, synthetic(steps, rng.normal(size=steps) * 4, seed, slots=3, masks=masks), seed)
        for seed, (steps, masks) in enumerate(plans)
    ]
    length = config.episode_length
    return ours, our_episodes, learner, [as_rllib_episode(module, episode, length) for episode in our_episodes]


def prepared_batch(learner, episodes):
    """The batch that RLlib's learner makes of ``episodes``."""
    batch = learner._learner_connector(rl_module=learner.module, batch={}, episodes=episodes, shared_data={})
    return batch["default_policy"]


def losses(pair):
    """Our report and loss, and RLlib's loss and logged values."""
    ours, our_episodes, learner, rllib_episodes = pair
    ours._learn_returns(our_episodes)
    batch = padded_batch([ours._centred(episode) for episode in our_episodes], ours.device)
    targets = ours._targets(batch)
    columns, module = prepared_batch(learner, rllib_episodes), learner.module["default_policy"]
    assert float(module.network.value_scale) == pytest.approx(float(ours.network.value_scale), rel=1e-6)
    weights = perturbed_weights(ours.network)
    ours.network.load_state_dict(weights)
    module.network.load_state_dict(weights)
    our_losses = ours._losses(batch, targets, 0.0, ours.config.ppo.entropy_start)
    outputs = module.forward_train(columns)
    rllib_loss = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=columns, fwd_out=outputs
    )
    return our_losses.report, our_losses.policy + our_losses.value, rllib_loss, learner.metrics.peek("default_policy")


def test_the_loss_of_a_batch_equals_that_of_our_learner(pair):
    report, our_loss, rllib_loss, logged = losses(pair)
    assert report["clip_share"] > 0  # ratios differ from 1, and some are clipped
    assert abs(report["policy_loss"]) > 1e-2
    assert rllib_loss.item() == pytest.approx(our_loss.item(), rel=1e-6)
    for name in ("policy_loss", "value_loss", "entropy", "kl"):
        assert float(logged[name.replace("value", "vf")]) == pytest.approx(report[name], rel=1e-5), name


def test_the_gradients_equal_those_of_our_learner(pair):
    ours, _, learner, _ = pair
    _, our_loss, rllib_loss, _ = losses(pair)
    our_loss.backward()
    rllib_loss.backward()
    rllib_parameters = learner.module["default_policy"].network.parameters()
    for (name, expected), parameter in zip(ours.network.named_parameters(), rllib_parameters, strict=True):
        assert torch.allclose(expected.grad, parameter.grad, rtol=1e-4, atol=1e-6), name


def test_an_update_yields_the_network_of_our_learner(pair):
    ours, our_episodes, learner, rllib_episodes = pair
    ours.update(our_episodes, round_index=0)
    learner.update(episodes=rllib_episodes, num_epochs=learner.config.num_epochs)
    weights = learner.module["default_policy"].network.state_dict()
    for name, expected in ours.network.state_dict().items():
        assert torch.allclose(weights[name], expected, rtol=1e-4, atol=1e-5), name


def test_minibatches_hold_whole_episodes_one_in_a_row(pair, monkeypatch):
    from esper_actors.rllib.config import ppo_config

    _, _, learner, rllib_episodes = pair
    preset = ppo_config(small_config(episode_length=6, system__envs=3, ppo__minibatch_episodes=2))
    masks = []
    loss = learner.compute_loss_for_module
    monkeypatch.setattr(
        learner, "compute_loss_for_module", lambda **k: (masks.append(k["batch"]["loss_mask"]), loss(**k))[1]
    )
    learner.update(
        episodes=rllib_episodes, num_epochs=2, minibatch_size=preset.minibatch_size, shuffle_batch_per_epoch=True
    )
    assert {tuple(mask.shape) for mask in masks} == {(2, 7)}
    assert all(bool(mask.any(dim=1).all()) for mask in masks)


def test_an_update_stops_before_a_step_beyond_the_kl_target(pair):
    _, _, learner, rllib_episodes = pair
    module = learner.module["default_policy"]
    learner.config = learner.config.copy(copy_frozen=False).training(kl_target=1e-9)
    initial = {name: parameter.clone() for name, parameter in module.named_parameters() if "critic" not in name}
    learner.update(episodes=deepcopy(rllib_episodes), num_epochs=1)  # RLlib adds a step to every episode of its input
    stepped = {name: parameter.clone() for name, parameter in module.named_parameters() if name in initial}
    assert any(not torch.equal(stepped[name], initial[name]) for name in initial)  # the first step has a ratio of 1
    result = learner.update(episodes=rllib_episodes, num_epochs=1)  # with log-probabilities from before that step
    assert all(torch.equal(parameter, stepped[n]) for n, parameter in module.named_parameters() if n in initial)
    assert result["default_policy"]["stopped_by_kl"].peek() == 1.0


def test_a_minibatch_that_is_not_finite_is_skipped_and_counted(pair, monkeypatch):
    _, _, learner, rllib_episodes = pair
    before = {name: parameter.clone() for name, parameter in learner.module["default_policy"].named_parameters()}
    original = ppo.value_loss
    monkeypatch.setattr(ppo, "value_loss", lambda *arguments: original(*arguments) * math.inf)
    result = learner.update(episodes=rllib_episodes, num_epochs=2)
    assert result["default_policy"]["skipped_minibatches"].peek() == 2
    after = dict(learner.module["default_policy"].named_parameters())
    assert all(torch.equal(after[name], p) for name, p in before.items() if "critic.3" not in name)


@pytest.mark.parametrize("reward", [math.nan, math.inf, 1e38])
def test_an_episode_with_an_impossible_reward_is_not_used(pair, reward):
    ours, our_episodes, learner, rllib_episodes = pair
    rllib_episodes[1].get_infos(-1)["rewards_by_cause"][1] = reward
    result = learner.update(episodes=rllib_episodes, num_epochs=1)
    assert result["default_policy"]["unused_episodes"].peek() == 1
    ours._learn_returns([our_episodes[0], our_episodes[2]])
    assert learner.returns.mean == pytest.approx(ours.returns.mean, rel=1e-6)
    assert all(bool(p.isfinite().all()) for p in learner.module["default_policy"].parameters())


def test_a_restored_learner_makes_the_same_update_as_the_saved_one(pair, preset, runner):
    _, _, learner, rllib_episodes = pair
    learner.update(episodes=deepcopy(rllib_episodes), num_epochs=1)
    restored = preset.build_learner(env=runner.env.unwrapped)
    restored.set_state(learner.get_state())
    assert restored.returns == learner.returns
    assert learner.returns.spread > 0
    assert np.array_equal(restored.base_moments.deviation, learner.base_moments.deviation)
    assert restored.slot_moments.count == learner.slot_moments.count > 0
    learner.update(episodes=deepcopy(rllib_episodes), num_epochs=1)
    restored.update(episodes=deepcopy(rllib_episodes), num_epochs=1)
    saved, loaded = (each.module["default_policy"].parameters() for each in (learner, restored))
    assert all(torch.equal(expected, parameter) for expected, parameter in zip(saved, loaded, strict=True))


def test_more_than_one_learner_is_refused(preset, runner):
    several = preset.copy(copy_frozen=False).learners(num_learners=2)
    with pytest.raises(ValueError, match="one learner, got num_learners=2"):
        several.build_learner(env=runner.env.unwrapped)


def test_rewards_are_assigned_to_the_step_that_caused_them():
    from esper_actors.rllib.learner import rewards_by_cause

    class WholeEpisode:
        t_started = 0

        def get_infos(self, index):
            return {"rewards_by_cause": np.array([3.0, 0.0, 1.0])}

    class ResumedEpisode(WholeEpisode):
        t_started = 4

    paid = torch.tensor([[0.0, 0.0, 4.0, 0.0], [1.0, 2.0, 0.0, 0.0]])
    assert rewards_by_cause(paid, [WholeEpisode(), ResumedEpisode()]).tolist() == [
        [3.0, 0.0, 1.0, 0.0],
        [1.0, 2.0, 0.0, 0.0],
    ]
    with pytest.raises(ValueError, match="1 episodes in 2 rows"):
        rewards_by_cause(paid, [WholeEpisode()])
