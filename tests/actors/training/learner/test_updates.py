"""Updates of the learner: learning, KL stop, refusals, and exact resumption."""

import copy
import math

import numpy as np
import pytest
import torch
from learner_builders import behaved, changed, drawn, open_masks, small_config, synthetic, tensors_equal, with_returns

from esper_actors.training.learner.batches import padded_batch
from esper_actors.training.learner.ppo import PPOLearner
from esper_ray.leyline.actions import ARGUMENT_HEADS, HEADS

pytestmark = pytest.mark.slow

WAIT = [0] * 8
ADVANCE = [5, 1, 0, 0, 0, 0, 0, 0]
GERMINATE = [1, 1, 4, 2, 1, 0, 0, 0]
RETARGET = [2, 0, 0, 2, 0, 1, 3, 4]
PRUNE = [3, 1, 0, 0, 0, 0, 2, 1]


def random_round(learner, seed=0, episodes=3, steps=4):
    """Episodes drawn from the learner's policy, with rewards from a generator."""
    rng = np.random.default_rng(seed)
    drafts = [synthetic(steps, rng.normal(size=steps), seed=100 * seed + i) for i in range(episodes)]
    return [drawn(learner, draft, i) for i, draft in enumerate(drafts)]


def state_of_learner(learner):
    state = learner.state()
    return state.tensors, copy.deepcopy(state.numbers)


def test_an_update_changes_the_weights_and_is_counted():
    learner = PPOLearner(small_config(ppo__epochs=4))
    before = learner.weights()
    report = learner.update(random_round(learner), 0)
    after = learner.weights()
    for name in ("op_head.0.weight", "lstm.weight_hh_l0", "slot_encoder.0.weight", "critic.3.weight"):
        assert not torch.equal(before[name], after[name])
    assert learner.updates == 1
    assert report["optimizer_steps"] == 8  # 4 passes over 3 episodes, at most 2 at a time
    assert report["stopped_by_kl"] == 0.0
    assert report["grad_norm"] > 0


def test_updates_do_not_depend_on_the_global_generator():
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        learner = PPOLearner(small_config())
        learner.update(random_round(learner), 0)
        states.append(state_of_learner(learner))
    assert tensors_equal(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]


def test_the_seed_of_the_run_determines_the_initial_weights():
    first, second, other_learner = (PPOLearner(small_config(seed=seed)).weights() for seed in (1, 1, 2))
    assert tensors_equal(first, second)
    assert not tensors_equal(first, other_learner)


def test_an_update_stops_before_a_step_beyond_the_kl_target():
    """The second minibatch has a KL above the target; the weights are those after exactly one step."""
    stopped = PPOLearner(small_config(ppo__target_kl=1e-6, ppo__minibatch_episodes=4, ppo__epochs=3))
    one_step = PPOLearner(small_config(ppo__minibatch_episodes=4, ppo__epochs=1))
    episodes = random_round(stopped)
    report, one_step_report = stopped.update(episodes, 0), one_step.update(episodes, 0)
    assert (report["stopped_by_kl"], report["optimizer_steps"]) == (1.0, 1)
    assert (one_step_report["stopped_by_kl"], one_step_report["optimizer_steps"]) == (0.0, 1)
    assert tensors_equal(stopped.weights(), one_step.weights())


def test_kl_above_the_target_in_the_first_minibatch_prevents_any_step():
    """With episodes of another policy, the report has the stop and the policy is unchanged."""
    learner, other_learner = PPOLearner(small_config(seed=1)), PPOLearner(small_config(seed=2))
    with torch.no_grad():
        other_learner.network.op_head[-1].bias[4] = 3.0
    before = learner.weights()
    report = learner.update(random_round(other_learner), 0)
    assert (report["stopped_by_kl"], report["optimizer_steps"]) == (1.0, 0)
    assert math.isnan(report["policy_loss"])
    after = learner.weights()
    assert all(torch.equal(before[name], after[name]) for name, _ in learner.network.named_parameters())


@pytest.mark.parametrize("rounds_before", [0, 2])
def test_a_loaded_learner_learns_bit_for_bit_like_the_original(rounds_before):
    uninterrupted = PPOLearner(small_config(seed=5))
    for index in range(rounds_before):
        uninterrupted.update(random_round(uninterrupted, index), index)
    resumed = PPOLearner(small_config(seed=5, ppo__lr=3e-4))
    with torch.no_grad():
        for parameter in resumed.network.parameters():
            parameter.add_(1.0)
    resumed.load(uninterrupted.state())
    assert state_of_learner(resumed)[1] == state_of_learner(uninterrupted)[1]
    episodes = random_round(uninterrupted, 9)
    for index in (rounds_before, rounds_before + 1):
        assert resumed.update(episodes, index) == pytest.approx(
            uninterrupted.update(episodes, index), nan_ok=True, abs=0
        )
    assert tensors_equal(state_of_learner(resumed)[0], state_of_learner(uninterrupted)[0])
    assert state_of_learner(resumed)[1] == state_of_learner(uninterrupted)[1]


def test_a_saved_state_is_not_changed_by_later_updates():
    learner = PPOLearner(small_config())
    learner.update(random_round(learner), 0)
    state = learner.state()
    copies = {name: tensor.clone() for name, tensor in state.tensors.items()}
    learner.update(random_round(learner, 1), 1)
    assert tensors_equal(state.tensors, copies)


def test_a_state_can_be_loaded_twice():
    """Loading copies: the optimizer must not change the loaded state."""
    source = PPOLearner(small_config())
    source.update(random_round(source), 0)
    state, episodes = source.state(), random_round(source, 1)
    copies = {name: tensor.clone() for name, tensor in state.tensors.items()}
    results = []
    for _ in range(2):
        learner = PPOLearner(small_config())
        learner.load(state)
        learner.update(episodes, 1)
        results.append(learner.weights())
    assert tensors_equal(state.tensors, copies)
    assert tensors_equal(*results)


@pytest.mark.parametrize(
    ("actions", "used_heads"),
    [
        ([GERMINATE, WAIT], {"blueprint", "style", "tempo", "alpha_target"}),
        ([RETARGET, WAIT], {"style", "alpha_target", "alpha_speed", "alpha_curve"}),
        ([PRUNE, WAIT], {"alpha_speed", "alpha_curve"}),
        ([ADVANCE, WAIT], set()),
        ([WAIT, WAIT], None),
    ],
    ids=["germinate", "retarget", "prune", "advance", "wait"],
)
def test_only_the_heads_that_an_action_reads_get_a_gradient(actions, used_heads):
    learner = with_returns(PPOLearner(small_config(ppo__minibatch_episodes=1)))
    episode = behaved(learner, synthetic(2, [1.0, -2.0]), actions)
    numbers = {"values": np.float32([0.0, 1.0]), "q_taken": np.float32([0.5, 0.0])}
    batch = padded_batch([changed(episode, **numbers)], learner.device)
    targets = learner._targets(batch)
    targets.arguments.copy_(batch.argument_mask)  # a single step is standardised to zero
    losses = learner._losses(batch, targets, 0.0, 0.0)
    (losses.policy + losses.value).backward()
    network = learner.network
    assert network.op_head[-1].weight.grad.abs().sum() > 0
    assert network.critic[-1].weight.grad.abs().sum() > 0
    assert (network.slot_head.score.weight.grad.abs().sum() > 0) == (used_heads is not None)
    for head in ARGUMENT_HEADS:
        gradient = network.argument_heads[head].out.weight.grad
        assert (gradient.abs().sum() > 0) == (head in (used_heads or set())), head


def probabilities(learner, draft):
    """Mean probability of FOSSILIZE, and of slot 1 given it."""
    with torch.no_grad():
        distribution, *_ = learner._evaluate(padded_batch([draft], learner.device), 0.0)
    return float(distribution.op[:, 4].exp().mean()), float(distribution.slot[:, 4, 1].exp().mean())


@pytest.mark.parametrize("critic", ["q_op", pytest.param("v", marks=pytest.mark.slow)])
def test_a_rewarded_action_becomes_more_probable(critic):
    """A bandit that rewards only FOSSILIZE on slot 1: operation and slot are learned within a few updates."""
    settings = {"ppo__lr": 5e-3, "ppo__target_kl": 0.2, "ppo__epochs": 5, "ppo__entropy_start": 0.0}
    learner = PPOLearner(small_config(gamma=0.01, policy__critic=critic, ppo__rounds=4, **settings))
    probe = synthetic(8, [0.0] * 8, seed=999)
    before = probabilities(learner, probe)
    for index in range(4):
        drafts = [drawn(learner, synthetic(30, [0.0] * 30, seed=100 * index + i), i) for i in range(4)]
        learner.update([changed(d, rewards=bandit_rewards(d.trajectory.actions)) for d in drafts], index)
    after = probabilities(learner, probe)
    assert before[0] < 0.2
    assert before[1] == pytest.approx(0.5, abs=0.1)
    assert after[0] > 2 * before[0]
    assert after[1] > 0.7


def bandit_rewards(actions):
    return ((actions[:, 0] == 4) & (actions[:, 1] == 1)).astype(np.float64)


def test_a_report_has_an_entropy_for_every_head_and_nan_if_unmeasured():
    learner = PPOLearner(small_config(ppo__minibatch_episodes=1))
    closed = open_masks(2)
    closed.slot_by_op[1:4] = False
    episode = behaved(learner, synthetic(2, [0.0, 1.0], masks=closed), [ADVANCE, WAIT])
    report = learner.update([episode], 0)
    assert {f"entropy_{head}" for head in HEADS} <= report.keys()
    assert 0 < report["entropy_op"] <= math.log(3) + 1e-6
    assert report["entropy_slot"] == pytest.approx(math.log(2), abs=0.05)
    assert all(math.isnan(report[f"entropy_{head}"]) for head in ARGUMENT_HEADS)


def test_the_normalizer_changes_after_the_update_from_occupied_slots_alone():
    learner = PPOLearner(small_config())
    first, second = random_round(learner, episodes=2, steps=3)
    empty = first.trajectory.features.copy()
    empty[:, 23 : 23 + 31] = 0.0
    episodes = [changed(first, features=empty), second]
    before = learner.network.normaliser.base_mean.clone()
    learner.update(episodes, 0)
    assert (before == 0).all()
    assert learner.base_moments.count == 6
    assert learner.slot_moments.count == 9  # 6 steps of two slots, three of them empty
    rows = np.concatenate([empty, second.trajectory.features])
    assert float(learner.network.normaliser.base_mean[1]) == pytest.approx(rows[:, 1].mean(), abs=1e-6)
    assert float(learner.network.normaliser.base_mean[0]) == 0.0  # the epoch is not a continuous number


def test_statistics_of_returns_do_not_depend_on_the_order_of_episodes():
    learner, other_learner = PPOLearner(small_config()), PPOLearner(small_config())
    episodes = [changed(e, rewards=e.trajectory.rewards + i) for i, e in enumerate(random_round(learner))]
    learner.update(episodes, 0)
    other_learner.update(episodes[::-1], 0)
    for name in ("return_moments", "reward_offset"):
        assert learner.state().numbers[name] == other_learner.state().numbers[name]
    assert learner.returns.spread > 0
