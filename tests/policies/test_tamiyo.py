"""The learned policy as a player: sampling, evaluation of its decisions, and determinism."""

import math

import numpy as np
import pytest
import torch
from policy_builders import FAST_LIVES, SMALL_POLICY, TINY

from esper_policies.distribution import ActionDistribution, MaskTensors
from esper_policies.network import PolicyNetwork, state_value
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.environment import make_environment
from esper_ray.leyline.actions import LifecycleOp

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def env():
    return make_environment("digits", TINY | SMALL_POLICY)


@pytest.fixture(scope="module")
def weights(env):
    """Weights with outputs that depend on the state: final layers 60 times as large as initially."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = PolicyNetwork(env.config.policy)
    with torch.no_grad():
        for layer, _ in network._final_layers():
            layer.weight.mul_(60.0)
    network.renormalise_values(-1.5, 2.5)
    return network.state_dict()


def policy_of(env, weights, epsilon=0.1, greedy=False):
    policy = LearnedPolicy(env.config.policy)
    policy.load(weights, epsilon)
    policy.greedy = greedy
    return policy


def play(env, policy, seed, env_seed=5):
    """Views and decisions of one episode."""
    env.reset(seed=env_seed)
    policy.begin_episode(seed)
    views, decisions, over = [], [], False
    while not over:
        views.append(env.view)
        decisions.append(policy.decide(views[-1]))
        assert views[-1].masks.allows(decisions[-1].action)
        _, _, terminated, truncated, _ = env.step(decisions[-1].action.to_indices())
        over = terminated or truncated
    return views, decisions


def test_decisions_are_a_function_of_the_seed(env, weights):
    policy = policy_of(env, weights)
    first = play(env, policy, 1)[1]
    assert play(env, policy, 1)[1] == first
    assert play(env, policy_of(env, weights), 1)[1] == first
    assert any(play(env, policy, seed)[1] != first for seed in (2, 3))


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_a_decision_has_the_log_probabilities_and_values_of_the_learner(env, weights, epsilon):
    """Log-probabilities and values of the stored actions, from one pass over the whole episode."""
    policy = policy_of(env, weights, epsilon)
    views, decisions = play(env, policy, 4)
    features = torch.from_numpy(np.stack([view.features for view in views]))[None]
    blueprints = torch.from_numpy(np.stack([view.blueprints for view in views]))[None]
    context = torch.from_numpy(np.stack([view.context for view in views]))[None]
    masks = MaskTensors.from_vectors(torch.from_numpy(np.stack([view.masks.vector() for view in views])), 3)
    actions = torch.tensor([decision.action.to_indices() for decision in decisions])
    with torch.no_grad():
        output = policy.network(features, blueprints, context)
        distribution = ActionDistribution(output.logits, masks, epsilon)
        op, arguments = distribution.log_probs(actions)
        values = 2.5 * state_value(distribution.op, output.q) - 1.5
        q_values = 2.5 * output.q.gather(1, actions[:, :1])[:, 0] - 1.5
    assert [d.log_prob_op for d in decisions] == pytest.approx(op.tolist(), abs=1e-5)
    assert [d.log_prob_arguments for d in decisions] == pytest.approx(arguments.tolist(), abs=1e-5)
    assert [d.value for d in decisions] == pytest.approx(values.tolist(), abs=1e-4)
    assert [d.q_taken for d in decisions] == pytest.approx(q_values.tolist(), abs=1e-4)
    assert any(d.log_prob_arguments < 0 for d in decisions)
    assert any(abs(d.value - d.q_taken) > 1e-3 for d in decisions)


def test_a_greedy_policy_takes_the_most_probable_action_for_any_seed(env, weights):
    policy = policy_of(env, weights, epsilon=0.0, greedy=True)
    first = play(env, policy, 1)[1]
    assert play(env, policy, 2)[1] == first
    sampled = [play(env, policy_of(env, weights, epsilon=0.0), seed)[1] for seed in range(3)]
    best = first[0].log_prob_op
    assert all(best >= decisions[0].log_prob_op - 1e-6 for decisions in sampled)
    assert any(decisions != first for decisions in sampled)


def test_with_epsilon_one_every_legal_operation_is_equally_likely(env, weights):
    for view, decision in zip(*play(env, policy_of(env, weights, epsilon=1.0), 0), strict=True):
        assert decision.log_prob_op == pytest.approx(-math.log(int(view.masks.op.sum())), abs=1e-6)


def test_a_new_episode_begins_with_an_empty_memory(env, weights):
    policy = policy_of(env, weights)
    env.reset(seed=5)
    policy.begin_episode(1)
    fresh = policy.decide(env.view).value
    play(env, policy, 1)
    env.reset(seed=5)
    assert policy.decide(env.view).value != fresh
    policy.begin_episode(1)
    assert policy.decide(env.view).value == fresh


def test_playing_a_policy_does_not_change_the_global_generator(env, weights):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    play(env, policy_of(env, weights), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_decisions_are_legal_in_all_stages(weights):
    """With epsilon 1, through several stages; ``play`` asserts legality."""
    env = make_environment("digits", FAST_LIVES | SMALL_POLICY | {"training.steps_per_epoch": 1})
    policy = policy_of(env, weights, epsilon=1.0)
    seen = {decision.action.operation for decision in play(env, policy, 0, 0)[1]}
    assert {LifecycleOp.WAIT, LifecycleOp.GERMINATE, LifecycleOp.ADVANCE} <= seen
