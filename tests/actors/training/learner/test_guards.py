"""Guards of the learner: each one fires for its fault and not otherwise."""

import copy
import math

import numpy as np
import pytest
import torch
from learner_builders import behaved, changed, drawn, open_masks, small_config, synthetic, tensors_equal
from variants import rest_at_night

from esper_actors.training.learner import ppo as module
from esper_actors.training.learner.batches import padded_batch
from esper_actors.training.learner.ppo import KL_TOLERANCE, LOW_VARIANCE, PPOLearner
from esper_actors.training.round_summary import DIAGNOSTICS
from esper_policies.distribution import ActionDistribution
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import HostSignals
from esper_ray.simic.normalisation import ReturnStatistics
from esper_ray.simic.running_moments import Moments

pytestmark = pytest.mark.integration

WAIT = [0] * 8
FOSSILIZE = [4, 1, 0, 0, 0, 0, 0, 0]


def played_round(learner, steps=4):
    rng = np.random.default_rng(0)
    return [drawn(learner, synthetic(steps, rng.normal(size=steps), seed=i), i) for i in range(2)]


def single_step_learner(**changes):
    """One minibatch, one step."""
    return PPOLearner(small_config(**({"ppo__epochs": 1, "ppo__minibatch_episodes": 2} | changes)))


def check_finite(learner):
    """Weights, optimizer and statistics hold no number that is not finite."""
    state = learner.state()
    assert all(bool(tensor.isfinite().all()) for tensor in state.tensors.values())
    for name in ("base_moments", "slot_moments", "return_moments"):
        count, mean, squares = state.numbers[name]
        assert np.isfinite([count, *mean, *squares]).all(), name
    assert state.numbers["reward_offset"] is None or math.isfinite(state.numbers["reward_offset"])


def skipped_update(learner, episodes, skipped=1):
    """The report of an update without any step; the weights must be unchanged and the state finite."""
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    report = learner.update(episodes, 0)
    assert (report["optimizer_steps"], report["skipped_minibatches"]) == (0, skipped)
    assert report["stopped_by_kl"] == 0.0
    after = dict(learner.network.named_parameters())
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert not learner.optimizer.state_dict()["state"]
    assert learner.updates == 1
    check_finite(learner)
    return report


@pytest.mark.parametrize("invalid", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("owner", "function"),
    [
        (module.ppo, "clipped_policy_loss"),
        (module.ppo, "value_loss"),
        (ActionDistribution, "entropy"),
        (module.ppo, "approximate_kl"),
        (module.ppo, "clip_share"),
    ],
    ids=["policy_loss", "value_loss", "entropy", "kl", "clip_share"],
)
def test_a_minibatch_with_a_non_finite_loss_term_is_skipped(monkeypatch, owner, function, invalid):
    learner = single_step_learner()
    episodes = played_round(learner)
    original = getattr(owner, function)
    monkeypatch.setattr(owner, function, lambda *args: original(*args) * 0 + invalid)
    skipped_update(learner, episodes)


def test_a_minibatch_with_an_overflowing_ratio_is_skipped():
    """exp(200) is infinite in float32; the surrogate may be clipped to a finite number, the KL divergence is not."""
    learner = single_step_learner()
    episodes = played_round(learner)
    corrupted = changed(episodes[0], log_prob_op=episodes[0].trajectory.log_prob_op - np.float32(200.0))
    skipped_update(learner, [corrupted, episodes[1]])


def test_non_finite_gradients_of_a_finite_loss_are_skipped():
    """The ratios of operation and arguments overflow in opposite directions and cancel in every term."""
    learner = single_step_learner(ppo__grad_clip=1.0)
    episode = behaved(learner, synthetic(2, [1.0, -1.0]), [FOSSILIZE, FOSSILIZE])
    shift = np.float32([200.0, 0.0])
    numbers = {
        "log_prob_op": episode.trajectory.log_prob_op - shift,
        "log_prob_arguments": episode.trajectory.log_prob_arguments + shift,
    }
    skipped_update(learner, [changed(episode, **numbers)])


INVALID_NUMBERS = {
    "rewards": (math.nan, math.inf, -math.inf, 1e38, -1e300),
    "values": (math.nan, math.inf, 1e38),
    "q_taken": (math.nan, -math.inf, 1e38),
    "log_prob_op": (math.nan, math.inf),
    "log_prob_arguments": (math.nan, -math.inf),
    "features": (math.nan, math.inf),
    "bootstrap": (math.nan, math.inf, 1e38),
}


@pytest.mark.parametrize(
    ("field", "invalid"),
    [case for name, numbers in INVALID_NUMBERS.items() for case in rest_at_night((name, x) for x in numbers)],
)
def test_an_episode_with_an_invalid_number_changes_nothing_and_the_others_are_learned(field, invalid):
    """Four episodes in minibatches of one: the broken one is skipped in both passes, three are learned from."""
    learner = single_step_learner(ppo__epochs=2, ppo__minibatch_episodes=1)
    rng = np.random.default_rng(1)
    episodes = [drawn(learner, synthetic(4, rng.normal(size=4), seed=i), i) for i in range(4)]
    number = invalid
    if field != "bootstrap":
        number = getattr(episodes[1].trajectory, field).copy()
        number.flat[3] = invalid
    report = learner.update([episodes[0], changed(episodes[1], **{field: number}), *episodes[2:]], 0)
    assert (report["skipped_minibatches"], report["optimizer_steps"]) == (2, 6)
    assert math.isfinite(report["value_loss"])
    check_finite(learner)
    assert learner.base_moments.count == 12
    assert learner.returns.moments.count == 12
    others = single_step_learner()
    others.update([episodes[0], *episodes[2:]], 0)
    assert others.state().numbers["return_moments"] == learner.state().numbers["return_moments"]


def test_a_round_of_invalid_episodes_is_skipped_and_the_next_round_is_learned():
    """A resumed run would play the same episodes, so it must get past them."""
    learner = single_step_learner()
    episodes = played_round(learner)
    broken = [changed(e, rewards=np.full(4, math.nan)) for e in episodes]
    report = skipped_update(learner, broken)
    assert math.isnan(report["explained_variance"])
    assert learner.returns.offset is None
    resumed = single_step_learner()
    resumed.load(learner.state())
    for each in (learner, resumed):
        assert each.update(episodes, 1)["optimizer_steps"] == 1
    assert tensors_equal(learner.weights(), resumed.weights())


def gradients_of_an_update(monkeypatch, learner, episodes):
    """Gradients at the optimizer step by name, and the report."""
    gradients = {}

    def step():
        gradients.update({name: p.grad.clone() for name, p in learner.network.named_parameters()})

    monkeypatch.setattr(learner.optimizer, "step", step)
    return gradients, learner.update(episodes, 0)


@pytest.mark.parametrize("coefficient", [1e-3, 1e6])
def test_the_loss_of_the_critic_does_not_change_the_gradient_of_the_heads(monkeypatch, coefficient):
    """Under one norm for all, a large loss of the critic would leave the heads a millionth of their gradient."""
    results = []
    for weight in (coefficient, 0.5):
        learner = single_step_learner(ppo__value_coefficient=weight)
        results.append(gradients_of_an_update(monkeypatch, learner, played_round(learner))[0])
    heads = [name for name in results[0] if name.startswith(("op_head", "slot_head", "argument_heads"))]
    assert len(heads) > 20
    assert all(torch.equal(results[0][name], results[1][name]) for name in heads)
    assert not torch.equal(results[0]["critic.3.weight"], results[1]["critic.3.weight"])


def test_gradients_below_the_limit_are_those_of_the_whole_loss(monkeypatch):
    learner = single_step_learner(ppo__grad_clip=1e9)
    episodes, statistics = played_round(learner), copy.deepcopy(learner.network.normaliser.state_dict())
    gradients, _ = gradients_of_an_update(monkeypatch, learner, episodes)
    learner.network.normaliser.load_state_dict(statistics)
    batch = padded_batch([learner._centred(episode) for episode in episodes], learner.device)
    losses = learner._losses(batch, learner._targets(batch), 0.0, learner.config.ppo.entropy_start)
    learner.optimizer.zero_grad(set_to_none=True)
    (losses.policy + losses.value).backward()
    for name, parameter in learner.network.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_policy_critic_and_trunk_are_clipped_by_norms_of_their_own(monkeypatch, limit):
    learner = single_step_learner(ppo__grad_clip=limit)
    gradients, report = gradients_of_an_update(monkeypatch, learner, played_round(learner))
    assert 1e-2 < report["grad_norm"] < 1e2
    names = {id(parameter): name for name, parameter in learner.network.named_parameters()}
    for group in learner.network.parameter_groups():
        norm = float(sum(gradients[names[id(parameter)]].pow(2).sum() for parameter in group).sqrt())
        assert 0 < norm <= min(limit, report["grad_norm"]) * (1 + 1e-4)


@pytest.mark.parametrize(("share", "steps"), [(0.99, 1), (1.01, 0), (50.0, 0)])
def test_an_update_stops_at_one_and_a_half_times_the_kl_target(monkeypatch, share, steps):
    learner = single_step_learner(ppo__target_kl=0.02)
    episodes = played_round(learner)
    before = learner.weights()
    monkeypatch.setattr(module.ppo, "approximate_kl", lambda *_: torch.tensor(share * KL_TOLERANCE * 0.02))
    report = learner.update(episodes, 0)
    assert KL_TOLERANCE == 1.5
    assert (report["optimizer_steps"], report["stopped_by_kl"]) == (steps, float(steps == 0))
    after = learner.weights()
    assert torch.equal(before["lstm.weight_hh_l0"], after["lstm.weight_hh_l0"]) == (steps == 0)


def test_a_step_without_any_legal_operation_is_refused():
    learner = single_step_learner()
    episodes = played_round(learner)
    masks = episodes[1].trajectory.masks.copy()
    masks[2, : 6 * 2] = 0
    with pytest.raises(ValueError, match="without any legal operation"):
        learner.update([episodes[0], changed(episodes[1], masks=masks)], 0)


@pytest.mark.parametrize(
    ("field", "match"),
    [("features", "not finite"), ("context", "not finite"), ("masks", "without any legal operation")],
)
def test_a_policy_refuses_observations_with_nan_or_without_a_legal_operation(field, match):
    learner = single_step_learner()
    policy = LearnedPolicy(learner.config.policy)
    policy.load(learner.weights(), 0.1)
    policy.begin_episode(0)
    trajectory, masks = synthetic(1, [0.0]).trajectory, open_masks(2)
    signals = HostSignals(0, 3, 1.0, 50.0, (), (), 0, True)
    seen = (trajectory.features[0], trajectory.blueprints[0], trajectory.context[0])
    view = View(*seen, masks, (None, None), signals)
    assert masks.allows(policy.decide(view).action)
    if field != "masks":
        getattr(view, field).flat[7] = math.nan
    else:
        masks.slot_by_op[:] = False
    with pytest.raises(ValueError, match=match):
        policy.decide(view)


def bandit_episodes(learner, spread):
    """Six episodes of one step, half with reward ``spread``, half with its negative: variance ``spread ** 2``."""
    rewards = [spread if i % 2 else -spread for i in range(6)]
    return [behaved(learner, synthetic(1, [reward], seed=i), [FOSSILIZE]) for i, reward in enumerate(rewards)]


@pytest.mark.parametrize(
    ("spread", "unit", "flag"),
    [
        (0.0, 1.0, 1.0),
        (0.0, 0.0, 1.0),
        (1.0, 0.0, 0.0),
        (0.0098, 1.0, 1.0),
        (0.0102, 1.0, 0.0),
        (1.0, 1.0, 0.0),
        (0.98, 100.0, 1.0),
        (1.02, 100.0, 0.0),
    ],
)
def test_returns_with_little_variance_in_units_of_the_critic_are_flagged(spread, unit, flag):
    """The unit is the spread of a thousand returns of earlier rounds and the six of this one; 0: no earlier rounds."""
    learner = single_step_learner(ppo__gae_lambda=1.0)
    episodes = bandit_episodes(learner, spread)
    if unit:
        earlier = Moments(1e3, np.zeros(1), np.array([1e3 * unit**2]))
        learner.returns = ReturnStatistics(0.0, earlier)
    report = learner.update(episodes, 0)
    assert report["return_variance"] == pytest.approx(spread**2, rel=1e-3, abs=1e-12)
    assert report["low_variance"] == flag
    assert math.isnan(report["explained_variance"]) == (spread == 0.0)
    assert pytest.approx(1e-4) == LOW_VARIANCE


def test_explained_variance_can_be_far_below_zero_where_the_variance_is_flagged():
    """A critic with errors of a hundredth of a unit has a very low explained variance."""
    learner = single_step_learner(ppo__gae_lambda=1.0)
    learner.returns = ReturnStatistics(0.0, Moments(1e3, np.zeros(1), np.array([1e3])))
    episodes = bandit_episodes(learner, 1e-3)
    with_wrong_values = [
        changed(e, values=e.trajectory.rewards + np.float64(0.01) * (-1) ** (i // 2)) for i, e in enumerate(episodes)
    ]
    report = learner.update(with_wrong_values, 0)
    assert report["explained_variance"] < -50
    assert report["low_variance"] == 1.0


def test_the_flag_follows_the_return_variance_in_the_table_of_rounds():
    index = DIAGNOSTICS.index("return_variance")
    assert DIAGNOSTICS[index - 1 : index + 2] == ("explained_variance", "return_variance", "low_variance")


def test_a_collapsed_policy_has_entropies_near_zero():
    healthy, collapsed = single_step_learner(), single_step_learner()
    with torch.no_grad():
        collapsed.network.op_head[-1].bias[0] = 30.0
    healthy_report, collapsed_report = (learner.update(played_round(learner), 0) for learner in (healthy, collapsed))
    assert healthy_report["entropy_op"] > 1.0
    assert healthy_report["entropy"] > 2.0
    assert collapsed_report["entropy_op"] < 1e-6
    assert collapsed_report["entropy"] < 1e-6


def test_forced_steps_do_not_lower_the_entropies():
    """Where only WAIT is legal, entropies of heads are unknown, not zero, and other steps keep theirs."""
    learner = single_step_learner()
    forced = open_masks(2)
    forced.slot_by_op[1:] = False
    closed = behaved(learner, synthetic(4, [0.0] * 4, masks=forced), [WAIT] * 4)
    assert math.isnan(learner.update([closed], 0)["entropy_op"])
    free, mixed = single_step_learner(), single_step_learner()
    free_episodes = [behaved(free, synthetic(4, [1.0, 0.0, 2.0, 0.0], seed=3), [FOSSILIZE, WAIT, FOSSILIZE, WAIT])]
    free_report, mixed_report = free.update(free_episodes, 0), mixed.update([*free_episodes, closed], 0)
    assert mixed_report["entropy"] == pytest.approx(free_report["entropy"], rel=1e-5)
    assert mixed_report["entropy_op"] == pytest.approx(free_report["entropy_op"], rel=1e-3)


@pytest.mark.parametrize(("shift", "share"), [(0.0, 0.0), (0.15, 0.0), (0.25, 1.0), (-0.25, 1.0)])
def test_ratios_outside_the_clip_range_are_counted(shift, share):
    """exp(0.15) = 1.16 is inside 0.8 to 1.2, exp(0.25) = 1.28 and exp(-0.25) = 0.78 are not."""
    learner = single_step_learner(ppo__target_kl=1e9)
    shifted = [
        changed(episode, log_prob_op=episode.trajectory.log_prob_op - np.float32(shift))
        for episode in played_round(learner)
    ]
    report = learner.update(shifted, 0)
    assert report["clip_share"] == pytest.approx(share)
    assert report["kl"] == pytest.approx(math.expm1(shift) - shift, abs=1e-5)


def test_mean_and_unit_of_the_critic_are_those_of_the_returns_of_centred_rewards():
    """The mean reward of the first round, 4, is the offset; a second round changes mean and unit, not the offset."""
    learner = single_step_learner(gamma=0.5, ppo__lr=1e-9)
    rounds = (([4.0, 0.0, 8.0, 0.0], [0.0, 2.0, 0.0, 18.0]), ([4.0, 4.0, 4.0, 8.0],))
    returns = ([-1.5, -3.0, 2.0, -4.0, -4.25, -0.5, 3.0, 14.0], [0.5, 1.0, 2.0, 4.0])
    batch = padded_batch(played_round(learner), learner.device)
    statistics = copy.deepcopy(learner.network.normaliser.state_dict())
    predictions = []
    for index, rewards in enumerate(rounds):
        learner.update([drawn(learner, synthetic(4, r, seed=i), i) for i, r in enumerate(rewards)], index)
        so_far = np.concatenate(returns[: index + 1])
        assert learner.returns.offset == 4.0
        assert float(learner.network.value_mean) == pytest.approx(so_far.mean(), rel=1e-6)
        assert float(learner.network.value_scale) == pytest.approx(so_far.std(), rel=1e-6)
        learner.network.normaliser.load_state_dict(statistics)
        with torch.no_grad():
            predictions.append(learner.network.values(learner._evaluate(batch, 0.0)[3]))
    torch.testing.assert_close(predictions[1], predictions[0], rtol=1e-4, atol=1e-4)
    assert predictions[0].std() > 1e-2


def test_an_untrained_critic_predicts_zero():
    learner = single_step_learner()
    assert all((e.trajectory.values == 0).all() and (e.trajectory.q_taken == 0).all() for e in played_round(learner))
    assert learner.update(played_round(learner), 0)["explained_variance"] == pytest.approx(0.0, abs=1e-6)
