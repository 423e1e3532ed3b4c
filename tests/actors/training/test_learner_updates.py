"""Updates: they learn, they stop, they refuse what is broken, and they can be continued bit for bit."""

import copy
import math

import numpy as np
import pytest
import torch
from learner_builders import behaved, changed, drawn, open_masks, small_config, synthetic, tensors_equal

from esper_actors.training.ppo_learner import PPOLearner, padded_batch
from esper_ray.leyline.actions import ARGUMENT_HEADS, HEADS

pytestmark = pytest.mark.slow

WAIT = [0] * 8
ADVANCE = [5, 1, 0, 0, 0, 0, 0, 0]
GERMINATE = [1, 1, 4, 2, 1, 0, 0, 0]
RETARGET = [2, 0, 0, 2, 0, 1, 3, 4]
PRUNE = [3, 1, 0, 0, 0, 0, 2, 1]


def some_round(learner, seed=0, episodes=3, steps=4):
    """Episodes drawn from the learner's policy, with rewards from a generator."""
    rng = np.random.default_rng(seed)
    drafts = [synthetic(steps, rng.normal(size=steps), seed=100 * seed + i) for i in range(episodes)]
    return [drawn(learner, draft, i) for i, draft in enumerate(drafts)]


def everything(learner):
    state = learner.state()
    return state.tensors, copy.deepcopy(state.numbers)


def test_an_update_changes_the_weights_and_counts():
    learner = PPOLearner(small_config(ppo__epochs=4))
    before = learner.weights()
    report = learner.update(some_round(learner), 0)
    after = learner.weights()
    for name in ("op_head.0.weight", "lstm.weight_hh_l0", "slot_encoder.0.weight", "critic.3.weight"):
        assert not torch.equal(before[name], after[name])
    assert learner.updates == 1
    assert report["optimizer_steps"] == 8  # 4 passes over 3 episodes, at most 2 at a time
    assert report["stopped_by_kl"] == 0.0
    assert report["grad_norm"] > 0


def test_equal_learners_make_equal_updates_whatever_the_global_generator_does():
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        learner = PPOLearner(small_config())
        learner.update(some_round(learner), 0)
        states.append(everything(learner))
    assert tensors_equal(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]


def test_the_seed_of_the_run_decides_the_initial_weights():
    first, again, other = (PPOLearner(small_config(seed=seed)).weights() for seed in (1, 1, 2))
    assert tensors_equal(first, again)
    assert not tensors_equal(first, other)


def test_divergence_ends_an_update_before_the_step_that_would_go_further():
    """The second minibatch finds a policy that has moved; the weights are those after exactly one step."""
    stopped = PPOLearner(small_config(ppo__target_kl=1e-6, ppo__minibatch_episodes=4, ppo__epochs=3))
    once = PPOLearner(small_config(ppo__minibatch_episodes=4, ppo__epochs=1))
    episodes = some_round(stopped)
    report, single = stopped.update(episodes, 0), once.update(episodes, 0)
    assert (report["stopped_by_kl"], report["optimizer_steps"]) == (1.0, 1)
    assert (single["stopped_by_kl"], single["optimizer_steps"]) == (0.0, 1)
    assert tensors_equal(stopped.weights(), once.weights())


def test_divergence_of_the_first_minibatch_means_no_step_at_all():
    """Episodes of another policy: the report says so, and the policy stays as it was."""
    learner, other = PPOLearner(small_config(seed=1)), PPOLearner(small_config(seed=2))
    with torch.no_grad():
        other.network.op_head[-1].bias[4] = 3.0
    before = learner.weights()
    report = learner.update(some_round(other), 0)
    assert (report["stopped_by_kl"], report["optimizer_steps"]) == (1.0, 0)
    assert math.isnan(report["policy_loss"])
    after = learner.weights()
    fixed = [name for name, _ in learner.network.named_parameters() if not name.startswith("critic.3")]
    assert all(torch.equal(before[name], after[name]) for name in fixed)


def broken_round(learner, field):
    """Two episodes, the second with NaN in its first ``field``."""
    episodes = [behaved(learner, synthetic(3, [1.0, 0.0, -1.0], i), [ADVANCE, WAIT, PRUNE]) for i in range(2)]
    spoilt = getattr(episodes[1].trajectory, field).copy()
    spoilt[0] = math.nan
    return [episodes[0], changed(episodes[1], **{field: spoilt})]


@pytest.mark.parametrize(
    ("field", "terms"),
    [
        ("log_prob_op", {"policy_loss", "kl"}),
        ("log_prob_arguments", {"policy_loss", "kl"}),
        ("q_taken", {"policy_loss"}),
    ],
)
def test_a_loss_that_is_not_finite_is_refused_by_the_name_of_its_terms(field, terms):
    learner = PPOLearner(small_config(ppo__minibatch_episodes=2))
    episodes = broken_round(learner, field)
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    with pytest.raises(FloatingPointError, match=r"PPO loss is not finite: .* = nan") as caught:
        learner.update(episodes, 0)
    named = {part.split(" = ")[0] for part in str(caught.value).removeprefix("PPO loss is not finite: ").split(", ")}
    assert named == terms
    after = dict(learner.network.named_parameters())
    assert all(torch.equal(after[name], p) for name, p in before.items() if not name.startswith("critic.3"))
    assert not learner.optimizer.state_dict()["state"]


@pytest.mark.parametrize("field", ["rewards", "values"])
def test_returns_that_are_not_finite_are_refused_before_anything_changes(field):
    learner = PPOLearner(small_config())
    episodes, before = broken_round(learner, field), learner.weights()
    with pytest.raises(FloatingPointError, match="PPO returns are not finite"):
        learner.update(episodes, 0)
    assert tensors_equal(learner.weights(), before)
    assert not learner.optimizer.state_dict()["state"]


def test_a_refused_round_leaves_no_broken_numbers_in_the_learner():
    """It may be asked to save its state afterwards: nothing in there may be infected."""
    learner = PPOLearner(small_config())
    episodes = some_round(learner)
    learner.update(episodes, 0)
    spoilt = changed(episodes[0], rewards=np.full(4, math.nan))
    with pytest.raises(FloatingPointError):
        learner.update([spoilt, *episodes[1:]], 1)
    numbers = learner.state().numbers
    for name in ("base_moments", "slot_moments", "return_moments"):
        count, mean, squares = numbers[name]
        assert np.isfinite([count, *mean, *squares]).all(), name


@pytest.mark.parametrize("rounds_before", [0, 2])
def test_a_loaded_learner_goes_on_bit_for_bit(rounds_before):
    straight = PPOLearner(small_config(seed=5))
    for index in range(rounds_before):
        straight.update(some_round(straight, index), index)
    resumed = PPOLearner(small_config(seed=5, ppo__lr=3e-4))
    with torch.no_grad():
        for parameter in resumed.network.parameters():
            parameter.add_(1.0)
    resumed.load(straight.state())
    assert everything(resumed)[1] == everything(straight)[1]
    episodes = some_round(straight, 9)
    for index in (rounds_before, rounds_before + 1):
        assert resumed.update(episodes, index) == pytest.approx(straight.update(episodes, index), nan_ok=True, abs=0)
    assert tensors_equal(everything(resumed)[0], everything(straight)[0])
    assert everything(resumed)[1] == everything(straight)[1]


def test_a_saved_state_is_a_copy_that_later_updates_leave_alone():
    learner = PPOLearner(small_config())
    learner.update(some_round(learner), 0)
    state = learner.state()
    kept = {name: tensor.clone() for name, tensor in state.tensors.items()}
    learner.update(some_round(learner, 1), 1)
    assert tensors_equal(state.tensors, kept)


def test_a_state_can_be_loaded_twice():
    """Loading copies: the optimiser must not go on working inside the state that it was given."""
    source = PPOLearner(small_config())
    source.update(some_round(source), 0)
    state, episodes = source.state(), some_round(source, 1)
    kept = {name: tensor.clone() for name, tensor in state.tensors.items()}
    results = []
    for _ in range(2):
        learner = PPOLearner(small_config())
        learner.load(state)
        learner.update(episodes, 1)
        results.append(learner.weights())
    assert tensors_equal(state.tensors, kept)
    assert tensors_equal(*results)


@pytest.mark.parametrize(
    ("actions", "used"),
    [
        ([GERMINATE, WAIT], {"blueprint", "style", "tempo", "alpha_target"}),
        ([RETARGET, WAIT], {"style", "alpha_target", "alpha_speed", "alpha_curve"}),
        ([PRUNE, WAIT], {"alpha_speed", "alpha_curve"}),
        ([ADVANCE, WAIT], set()),
        ([WAIT, WAIT], None),
    ],
    ids=["germinate", "retarget", "prune", "advance", "wait"],
)
def test_every_head_that_was_used_learns_and_no_other(actions, used):
    learner = PPOLearner(small_config(ppo__minibatch_episodes=1))
    episode = behaved(learner, synthetic(2, [1.0, -2.0]), actions)
    numbers = {"values": np.float32([0.0, 1.0]), "q_taken": np.float32([0.5, 0.0])}
    batch = padded_batch([changed(episode, **numbers)], learner.device)
    targets = learner._targets(batch)
    targets.arguments.copy_(batch.argument_mask)  # one step alone would be standardised to nothing
    _, loss = learner._losses(batch, targets, 0.0, 0.0)
    loss.backward()
    network = learner.network
    assert network.op_head[-1].weight.grad.abs().sum() > 0
    assert network.critic[-1].weight.grad.abs().sum() > 0
    assert (network.slot_head.score.weight.grad.abs().sum() > 0) == (used is not None)
    for head in ARGUMENT_HEADS:
        gradient = network.argument_heads[head].out.weight.grad
        assert (gradient.abs().sum() > 0) == (head in (used or set())), head


def chances(learner, draft):
    """Mean probability of FOSSILIZE, and of slot 1 given it."""
    with torch.no_grad():
        distribution, *_ = learner._evaluate(padded_batch([draft], learner.device), 0.0)
    return float(distribution.op[:, 4].exp().mean()), float(distribution.slot[:, 4, 1].exp().mean())


@pytest.mark.parametrize("critic", ["q_op", pytest.param("v", marks=pytest.mark.slow)])
def test_what_is_rewarded_becomes_likelier(critic):
    """A bandit: only FOSSILIZE on slot 1 pays. Operation and slot both learn it within a few updates."""
    settings = {"ppo__lr": 5e-3, "ppo__target_kl": 0.2, "ppo__epochs": 5, "ppo__entropy_start": 0.0}
    learner = PPOLearner(small_config(gamma=0.01, policy__critic=critic, ppo__rounds=4, **settings))
    probe = synthetic(8, [0.0] * 8, seed=999)
    before = chances(learner, probe)
    for index in range(4):
        drafts = [drawn(learner, synthetic(30, [0.0] * 30, seed=100 * index + i), i) for i in range(4)]
        learner.update([changed(d, rewards=paid(d.trajectory.actions)) for d in drafts], index)
    after = chances(learner, probe)
    assert before[0] < 0.2
    assert before[1] == pytest.approx(0.5, abs=0.1)
    assert after[0] > 2 * before[0]
    assert after[1] > 0.7


def paid(actions):
    return ((actions[:, 0] == 4) & (actions[:, 1] == 1)).astype(np.float64)


def test_a_report_names_every_head_and_leaves_unmeasured_entropies_open():
    learner = PPOLearner(small_config(ppo__minibatch_episodes=1))
    closed = open_masks(2)
    closed.slot_by_op[1:4] = False
    episode = behaved(learner, synthetic(2, [0.0, 1.0], masks=closed), [ADVANCE, WAIT])
    report = learner.update([episode], 0)
    assert {f"entropy_{head}" for head in HEADS} <= report.keys()
    assert 0 < report["entropy_op"] <= math.log(3) + 1e-6
    assert report["entropy_slot"] == pytest.approx(math.log(2), abs=0.05)
    assert all(math.isnan(report[f"entropy_{head}"]) for head in ARGUMENT_HEADS)


def test_the_normaliser_learns_after_the_update_and_from_occupied_slots_alone():
    learner = PPOLearner(small_config())
    first, second = some_round(learner, episodes=2, steps=3)
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
    assert float(learner.network.normaliser.base_mean[0]) == 0.0  # the epoch is no continuous number


def test_the_unit_of_returns_does_not_depend_on_who_was_done_first():
    one, other = PPOLearner(small_config()), PPOLearner(small_config())
    episodes = [changed(e, rewards=e.trajectory.rewards + i) for i, e in enumerate(some_round(one))]
    one.update(episodes, 0)
    other.update(episodes[::-1], 0)
    assert one.state().numbers["return_moments"] == other.state().numbers["return_moments"]
    assert one.return_scale.unit != 1.0
