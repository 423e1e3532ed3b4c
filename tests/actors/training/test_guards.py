"""Guards of the learner: each one fires for its fault and not otherwise."""

import copy
import math

import numpy as np
import pytest
import torch
from learner_builders import behaved, changed, drawn, open_masks, small_config, synthetic, tensors_equal

from esper_actors.training import ppo_learner as module
from esper_actors.training.ppo_learner import KL_TOLERANCE, LOW_VARIANCE, PPOLearner
from esper_actors.training.round_summary import DIAGNOSTICS
from esper_policies.distribution import ActionDistribution
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import HostSignals

WAIT = [0] * 8
FOSSILIZE = [4, 1, 0, 0, 0, 0, 0, 0]


def played_round(learner, steps=4):
    rng = np.random.default_rng(0)
    return [drawn(learner, synthetic(steps, rng.normal(size=steps), seed=i), i) for i in range(2)]


def single_step_learner(**changes):
    """One minibatch, one step."""
    return PPOLearner(small_config(**({"ppo__epochs": 1, "ppo__minibatch_episodes": 2} | changes)))


def refusal(learner, episodes, error, match):
    """The message of the refusal; the weights must be unchanged, except the unit of the last critic layer."""
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    with pytest.raises(error, match=match) as info:
        learner.update(episodes, 0)
    after = dict(learner.network.named_parameters())
    unscaled = [name for name in before if not name.startswith("critic.3")]
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in unscaled)
    assert not learner.optimizer.state_dict()["state"]
    assert learner.updates == 0
    assert learner.base_moments.count == 0
    return str(info.value)


def refused_terms(message):
    return {part.split(" = ")[0] for part in message.removeprefix("PPO loss is not finite: ").split(", ")}


@pytest.mark.parametrize("invalid", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("owner", "function", "term"),
    [
        (module.ppo, "clipped_policy_loss", "policy_loss"),
        (module.ppo, "value_loss", "value_loss"),
        (ActionDistribution, "entropy", "entropy"),
        (module.ppo, "approximate_kl", "kl"),
        (module.ppo, "clip_share", "clip_share"),
    ],
    ids=["policy_loss", "value_loss", "entropy", "kl", "clip_share"],
)
def test_each_non_finite_loss_term_is_refused_with_its_name(monkeypatch, owner, function, term, invalid):
    learner = single_step_learner()
    episodes = played_round(learner)
    original = getattr(owner, function)
    monkeypatch.setattr(owner, function, lambda *args: original(*args) * 0 + invalid)
    assert refused_terms(refusal(learner, episodes, FloatingPointError, "PPO loss is not finite")) == {term}


@pytest.mark.parametrize(
    ("layer", "terms"), [("critic", {"value_loss"}), ("op_head", {"policy_loss", "entropy", "kl"})]
)
def test_a_nan_weight_is_reported_in_the_terms_that_depend_on_it(layer, terms):
    learner = single_step_learner()
    episodes = played_round(learner)
    with torch.no_grad():
        getattr(learner.network, layer)[-1].bias.fill_(math.nan)
    assert refused_terms(refusal(learner, episodes, FloatingPointError, "PPO loss is not finite")) == terms


def test_an_overflowing_ratio_is_refused():
    """exp(200) is infinite in float32; the surrogate may be clipped to a finite number, the KL divergence is not."""
    learner = single_step_learner()
    episodes = played_round(learner)
    corrupted = changed(episodes[0], log_prob_op=episodes[0].trajectory.log_prob_op - np.float32(200.0))
    message = refusal(learner, [corrupted, episodes[1]], FloatingPointError, "kl = inf")
    assert "kl" in refused_terms(message)


def test_non_finite_gradients_of_a_finite_loss_are_refused():
    """The ratios of operation and arguments overflow in opposite directions and cancel in every term."""
    learner = single_step_learner(ppo__grad_clip=1.0)
    episode = behaved(learner, synthetic(2, [1.0, -1.0]), [FOSSILIZE, FOSSILIZE])
    shift = np.float32([200.0, 0.0])
    numbers = {
        "log_prob_op": episode.trajectory.log_prob_op - shift,
        "log_prob_arguments": episode.trajectory.log_prob_arguments + shift,
    }
    refusal(learner, [changed(episode, **numbers)], RuntimeError, "non-finite")


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_a_gradient_is_clipped_and_its_norm_before_is_reported(monkeypatch, limit):
    learner = single_step_learner(ppo__grad_clip=limit)
    episodes = played_round(learner)
    gradient_norms = []
    monkeypatch.setattr(
        learner.optimizer,
        "step",
        lambda: gradient_norms.append(float(sum(p.grad.pow(2).sum() for p in learner.network.parameters()).sqrt())),
    )
    report = learner.update(episodes, 0)
    assert 1e-2 < report["grad_norm"] < 1e2
    assert gradient_norms == [pytest.approx(min(limit, report["grad_norm"]), rel=1e-4)]


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


@pytest.mark.parametrize("field", ["rewards", "values", "bootstrap"])
def test_returns_that_overflow_are_refused_before_anything_changes(field):
    learner = single_step_learner()
    episodes = played_round(learner)
    weights = learner.weights()
    invalid = math.inf if field == "bootstrap" else np.full(4, math.inf)
    corrupted = changed(episodes[0], **{field: invalid})
    refusal(learner, [corrupted, episodes[1]], FloatingPointError, "PPO returns are not finite")
    assert tensors_equal(learner.weights(), weights)


def test_a_step_without_any_legal_operation_is_refused():
    learner = single_step_learner()
    episodes = played_round(learner)
    masks = episodes[1].trajectory.masks.copy()
    masks[2, : 6 * 2] = 0
    refusal(learner, [episodes[0], changed(episodes[1], masks=masks)], ValueError, "without any legal operation")


@pytest.mark.parametrize("invalid", [math.nan, math.inf])
def test_an_observation_that_is_not_finite_is_refused(invalid):
    learner = single_step_learner()
    episodes = played_round(learner)
    features = episodes[1].trajectory.features.copy()
    features[3, 40] = invalid
    refusal(learner, [episodes[0], changed(episodes[1], features=features)], ValueError, "not finite")


@pytest.mark.parametrize(("field", "match"), [("features", "not finite"), ("masks", "without any legal operation")])
def test_a_policy_refuses_the_observations_that_the_learner_refuses(field, match):
    learner = single_step_learner()
    policy = LearnedPolicy(learner.config.policy)
    policy.load(learner.weights(), 0.1)
    policy.begin_episode(0)
    trajectory, masks = synthetic(1, [0.0]).trajectory, open_masks(2)
    signals = HostSignals(0, 3, 1.0, 50.0, (), (), 0, True)
    view = View(trajectory.features[0], trajectory.blueprints[0], masks, (None, None), signals)
    assert masks.allows(policy.decide(view).action)
    if field == "features":
        view.features[7] = math.nan
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
        (0.0099, 1.0, 1.0),
        (0.0101, 1.0, 0.0),
        (1.0, 1.0, 0.0),
        (0.0099, 0.5, 0.0),
        (0.99, 100.0, 1.0),
        (1.01, 100.0, 0.0),
    ],
)
def test_returns_with_little_variance_in_units_of_the_critic_are_flagged(spread, unit, flag):
    """The unit is that of the rollout; the update then changes it to that of its own returns."""
    learner = single_step_learner(ppo__gae_lambda=1.0)
    learner.network.rescale_values(unit)
    report = learner.update(bandit_episodes(learner, spread), 0)
    assert report["return_variance"] == pytest.approx(spread**2, rel=1e-3, abs=1e-12)
    assert report["low_variance"] == flag
    assert math.isnan(report["explained_variance"]) == (spread == 0.0)
    assert pytest.approx(1e-4) == LOW_VARIANCE


def test_explained_variance_can_be_far_below_zero_where_the_variance_is_flagged():
    """A critic with errors of a hundredth of a unit has a very low explained variance."""
    learner = single_step_learner(ppo__gae_lambda=1.0)
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


def test_the_unit_of_the_critic_is_the_deviation_of_the_discounted_returns():
    """It is set before the update: targets have a deviation of one, predictions in units of reward are unchanged."""
    learner = single_step_learner(gamma=0.5, ppo__lr=1e-9)
    rewards = ([4.0, 0.0, 8.0, 0.0], [0.0, 2.0, 0.0, 16.0])
    episodes = [drawn(learner, synthetic(4, np.array(r), seed=i), i) for i, r in enumerate(rewards)]
    discounted = [6.0, 4.0, 8.0, 0.0, 3.0, 6.0, 8.0, 16.0]
    batch = module.padded_batch(played_round(learner), learner.device)
    with torch.no_grad():
        before = learner._evaluate(batch, 0.0)[3] * learner.network.value_scale
    statistics = copy.deepcopy(learner.network.normaliser.state_dict())
    learner.update(episodes, 0)
    assert float(learner.network.value_scale) == pytest.approx(np.std(discounted), rel=1e-6)
    learner.network.normaliser.load_state_dict(statistics)
    with torch.no_grad():
        after = learner._evaluate(batch, 0.0)[3] * learner.network.value_scale
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
