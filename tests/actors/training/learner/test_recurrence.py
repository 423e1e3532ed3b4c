"""Recurrent memory: padded batches against a loop over single steps with a plain LSTM.

The tests of the network compare acting step by step with whole sequences. These tests cover the loss and its gradients
through time, episodes that continue from the middle, and values at the end of truncated episodes.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from learner_builders import changed, cut, drawn, open_masks, small_config, synthetic, with_returns

from esper_actors.training.learner.batches import padded_batch
from esper_actors.training.learner.ppo import PPOLearner
from esper_policies.distribution import ActionDistribution, MaskTensors
from esper_policies.network import state_value
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import HostSignals

CLIP, EPSILON, ENTROPY, VALUE = 0.2, 0.1, 0.03, 0.5
LENGTHS = (6, 2, 4, 1)
SLOTS = 2


@pytest.fixture
def learner():
    """A learner with large gates, whose choices depend on the memory; in double precision once episodes are drawn."""
    learner = with_returns(PPOLearner(small_config(seed=4, ppo__clip=CLIP, ppo__value_coefficient=VALUE)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer, _ in learner.network._final_layers():
            layer.weight.mul_(40.0)
        for parameter in learner.network.lstm.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return learner


def episodes_of_an_earlier_policy(learner):
    """Episodes of four lengths, the first terminated, the others truncated; the policy has changed since."""
    rng = np.random.default_rng(2)
    episodes = [drawn(learner, synthetic(n, rng.normal(size=n), seed=n, slots=SLOTS), seed=n) for n in LENGTHS]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    learner.network.double()
    return [changed(e, bootstrap=0.5 * i, terminated=i == 0) for i, e in enumerate(episodes)]


def in_double_precision(batch):
    floating = {name: getattr(batch, name) for name in type(batch).__slots__}
    return replace(batch, **{name: x.double() for name, x in floating.items() if x.is_floating_point()})


def with_plain_lstm(network):
    """The network with an LSTM as in the book: one step, gates in the order input, forget, cell, output."""

    def remember(x, memory):
        assert x.shape[:2] == (1, 1)
        hidden, cell = (torch.zeros_like(x[:, 0]),) * 2 if memory is None else memory
        lstm = network.lstm
        gates = x[:, 0] @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + hidden @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
        enter, forget, new, out = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(out) * torch.tanh(cell)
        return hidden[:, None], (hidden, cell)

    network._remember = remember
    return network


def step_by_step(network, trajectory):
    """Distribution and Q values of each step of an episode, with the memory of the previous step."""
    memory = None
    for t in range(len(trajectory)):
        seen = (trajectory.features[t], trajectory.blueprints[t], trajectory.context[t])
        features, blueprints, context = (torch.from_numpy(part)[None, None] for part in seen)
        output = network(features.double(), blueprints, context.double(), memory)
        memory = output.memory
        masks = MaskTensors.from_vectors(torch.from_numpy(trajectory.masks[t])[None], SLOTS)
        yield t, ActionDistribution(output.logits, masks, EPSILON), output.q


def loss_step_by_step(network, episodes, targets, scale):
    """The loss of a round, summed over single steps; everything is legal, so that every step counts."""
    policy = value = entropy = 0.0
    for e, episode in enumerate(episodes):
        trajectory = episode.trajectory
        for t, distribution, q in step_by_step(network, trajectory):
            action = torch.from_numpy(trajectory.actions[t])[None]
            op, arguments = distribution.log_probs(action)
            for new, old, advantage in (
                (op, trajectory.log_prob_op[t], targets.op[e, t]),
                (arguments, trajectory.log_prob_arguments[t], targets.arguments[e, t]),
            ):
                ratio = (new[0] - float(old)).exp()
                policy = policy - torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
            value = value + 0.5 * (q[0, action[0, 0]] - targets.returns[e, t] / scale) ** 2
            entropy = entropy + distribution.entropy()[0]
    return (policy + VALUE * value - ENTROPY * entropy) / sum(LENGTHS)


def test_log_probabilities_and_values_of_padded_batches_equal_a_step_loop(learner):
    episodes = episodes_of_an_earlier_policy(learner)
    batch = in_double_precision(padded_batch(episodes, learner.device))
    with torch.no_grad():
        distribution, op, arguments, q_taken, output = learner._evaluate(batch, EPSILON)
        values = state_value(distribution.op, output.q)
        tables = [x.reshape(batch.valid_mask.shape) for x in (op, arguments, q_taken, values)]
        loop = with_plain_lstm(copy.deepcopy(learner.network))
        for e, episode in enumerate(episodes):
            for t, distribution, q in step_by_step(loop, episode.trajectory):
                action = torch.from_numpy(episode.trajectory.actions[t])[None]
                numbers = (*distribution.log_probs(action), q[:, action[0, 0]], state_value(distribution.op, q))
                for table, number in zip(tables, numbers, strict=True):
                    assert float(table[e, t]) == pytest.approx(float(number), abs=1e-9)


def test_gradients_through_time_of_padded_batches_equal_a_step_loop(learner):
    episodes = episodes_of_an_earlier_policy(learner)
    batch = in_double_precision(padded_batch(episodes, learner.device))
    targets = learner._targets(batch)
    losses = learner._losses(batch, targets, EPSILON, ENTROPY)
    loss = losses.policy + losses.value
    loss.backward()
    loop = with_plain_lstm(copy.deepcopy(learner.network))
    loop.zero_grad(set_to_none=True)
    expected = loss_step_by_step(loop, episodes, targets, float(loop.value_scale))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for (name, parameter), reference in zip(learner.network.named_parameters(), loop.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.grad, reference.grad, atol=1e-10, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    through_time = learner.network.lstm.weight_hh_l0.grad.abs().max()
    assert through_time > 1e-4


def test_values_differ_if_the_memory_continues_into_the_next_episode(learner):
    """The equalities above depend on a zero memory at the start of each episode."""
    first, second, *_ = episodes_of_an_earlier_policy(learner)
    joined = {
        name: np.concatenate([getattr(first.trajectory, name), getattr(second.trajectory, name)])
        for name in ("features", "blueprints", "context", "masks", "rewards")
    }
    with_zero_memory = [q[0, 0].item() for _, _, q in step_by_step(learner.network, second.trajectory)]
    joined_trajectory = replace(first.trajectory, **joined)
    with_old_memory = [q[0, 0].item() for _, _, q in step_by_step(learner.network, joined_trajectory)][
        len(first.trajectory) :
    ]
    assert np.abs(np.subtract(with_zero_memory, with_old_memory)).max() > 1e-3


@pytest.mark.parametrize("at", [1, 3, 5])
def test_an_episode_continues_from_the_memory_of_its_first_half(learner, at):
    """Both halves are sequences, one of a single step among them; the second starts with the memory of the first."""
    batch = padded_batch([synthetic(6, [0.0] * 6, slots=SLOTS)], learner.device)
    network = learner.network
    seen = (batch.features, batch.blueprints, batch.context)
    whole = network(*seen)
    first = network(*(part[:, :at] for part in seen))
    second = network(*(part[:, at:] for part in seen), first.memory)
    for name in ("op", "slot"):
        joined = torch.cat([getattr(half.logits, name) for half in (first, second)])
        torch.testing.assert_close(joined, getattr(whole.logits, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([first.q, second.q]), whole.q, atol=1e-5, rtol=1e-5)
    for half, full in zip(second.memory, whole.memory, strict=True):
        torch.testing.assert_close(half, full, atol=1e-5, rtol=1e-5)
    without_memory = network(*(part[:, at:] for part in seen))
    assert (without_memory.q - second.q).abs().max() > 1e-3


def episode_views(episode):
    signals = HostSignals(0, 6, 1.0, 50.0, (), (), 0, True)
    trajectory = episode.trajectory
    for seen in zip(trajectory.features, trajectory.blueprints, trajectory.context, strict=True):
        yield View(*seen, open_masks(SLOTS), (None,) * SLOTS, signals)


def test_a_policy_with_the_memory_of_another_makes_the_same_decisions(learner):
    def greedy_policy():
        policy = LearnedPolicy(learner.config.policy)
        policy.load(learner.weights(), 0.0)
        policy.greedy = True
        policy.begin_episode(0)
        return policy

    views = list(episode_views(synthetic(6, [0.0] * 6, slots=SLOTS)))
    first, second = greedy_policy(), greedy_policy()
    decisions = [first.decide(view) for view in views[:3]]
    second._memory = first._memory
    decisions += [first.decide(view) for view in views[3:]]
    assert [second.decide(view) for view in views[3:]] == decisions[3:]
    new_policy = greedy_policy()
    assert new_policy.decide(views[3]).value != decisions[3].value


def test_a_truncated_episode_is_bootstrapped_with_the_value_of_its_memory(learner):
    """With lambda 0 each target depends on the next value; truncation must not change the target."""
    config = learner.config
    learner.config = config.model_copy(update={"ppo": config.ppo.model_copy(update={"gae_lambda": 0.0})})
    rewards = np.random.default_rng(5).normal(size=6)
    whole = drawn(learner, synthetic(6, rewards, seed=8, slots=SLOTS), seed=1)
    value = float(whole.trajectory.values[3])
    short = changed(cut(whole, 3), bootstrap=value, terminated=False)
    ended = changed(cut(whole, 3), bootstrap=0.0, terminated=True)
    long, first, last = (learner._targets(padded_batch([e], learner.device)).returns[0] for e in (whole, short, ended))
    torch.testing.assert_close(first, long[:3])
    torch.testing.assert_close(last[:2], long[:2])
    assert float(long[2] - last[2]) == pytest.approx(learner.config.gamma * value, abs=1e-6)
    with torch.no_grad():
        batch = padded_batch([whole], learner.device)
        with_zero_memory = learner.network(
            *(part[:, 3:4] for part in (batch.features, batch.blueprints, batch.context))
        )
    without_memory = float(
        learner.network.values(state_value(with_zero_memory.logits.op.log_softmax(-1), with_zero_memory.q))
    )
    assert abs(without_memory - value) > 1e-4
