"""Every guard of the learner fires here at least once, and only when it should."""

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


def a_round(learner, steps=4):
    rng = np.random.default_rng(0)
    return [drawn(learner, synthetic(steps, rng.normal(size=steps), seed=i), i) for i in range(2)]


def one_pass(**changes):
    """One minibatch, one step."""
    return PPOLearner(small_config(**({"ppo__epochs": 1, "ppo__minibatch_episodes": 2} | changes)))


def refused(learner, episodes, error, match):
    """The message of the refusal; the weights must be what they were, the last critic layer's unit aside."""
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    with pytest.raises(error, match=match) as caught:
        learner.update(episodes, 0)
    after = dict(learner.network.named_parameters())
    kept = [name for name in before if not name.startswith("critic.3")]
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in kept)
    assert not learner.optimizer.state_dict()["state"]
    assert learner.updates == 0
    assert learner.base_moments.count == 0
    return str(caught.value)


def named(message):
    return {part.split(" = ")[0] for part in message.removeprefix("PPO loss is not finite: ").split(", ")}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
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
def test_each_term_of_the_loss_is_refused_by_its_name(monkeypatch, owner, function, term, bad):
    learner = one_pass()
    episodes = a_round(learner)
    genuine = getattr(owner, function)
    monkeypatch.setattr(owner, function, lambda *args: genuine(*args) * 0 + bad)
    assert named(refused(learner, episodes, FloatingPointError, "PPO loss is not finite")) == {term}


@pytest.mark.parametrize(
    ("layer", "terms"), [("critic", {"value_loss"}), ("op_head", {"policy_loss", "entropy", "kl"})]
)
def test_a_broken_weight_is_found_in_the_terms_that_it_reaches(layer, terms):
    learner = one_pass()
    episodes = a_round(learner)
    with torch.no_grad():
        getattr(learner.network, layer)[-1].bias.fill_(math.nan)
    assert named(refused(learner, episodes, FloatingPointError, "PPO loss is not finite")) == terms


def test_a_ratio_that_overflows_is_refused():
    """exp(200) is infinite in float32; the surrogate may be clipped to a finite number, the divergence is not."""
    learner = one_pass()
    episodes = a_round(learner)
    spoilt = changed(episodes[0], log_prob_op=episodes[0].trajectory.log_prob_op - np.float32(200.0))
    message = refused(learner, [spoilt, episodes[1]], FloatingPointError, "kl = inf")
    assert "kl" in named(message)


def test_gradients_that_are_not_finite_are_refused_although_the_loss_is():
    """The ratios of operation and arguments overflow both ways and cancel, so that no term shows it."""
    learner = one_pass(ppo__grad_clip=1.0)
    episode = behaved(learner, synthetic(2, [1.0, -1.0]), [FOSSILIZE, FOSSILIZE])
    shift = np.float32([200.0, 0.0])
    numbers = {
        "log_prob_op": episode.trajectory.log_prob_op - shift,
        "log_prob_arguments": episode.trajectory.log_prob_arguments + shift,
    }
    refused(learner, [changed(episode, **numbers)], RuntimeError, "non-finite")


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_a_gradient_is_cut_to_the_limit_and_reported_as_it_was(monkeypatch, limit):
    learner = one_pass(ppo__grad_clip=limit)
    episodes = a_round(learner)
    used = []
    monkeypatch.setattr(
        learner.optimizer,
        "step",
        lambda: used.append(float(sum(p.grad.pow(2).sum() for p in learner.network.parameters()).sqrt())),
    )
    report = learner.update(episodes, 0)
    assert 1e-2 < report["grad_norm"] < 1e2
    assert used == [pytest.approx(min(limit, report["grad_norm"]), rel=1e-4)]


@pytest.mark.parametrize(("share", "steps"), [(0.99, 1), (1.01, 0), (50.0, 0)])
def test_the_divergence_that_ends_an_update_is_one_and_a_half_times_its_target(monkeypatch, share, steps):
    learner = one_pass(ppo__target_kl=0.02)
    episodes = a_round(learner)
    before = learner.weights()
    monkeypatch.setattr(module.ppo, "approximate_kl", lambda *_: torch.tensor(share * KL_TOLERANCE * 0.02))
    report = learner.update(episodes, 0)
    assert KL_TOLERANCE == 1.5
    assert (report["optimizer_steps"], report["stopped_by_kl"]) == (steps, float(steps == 0))
    after = learner.weights()
    assert torch.equal(before["lstm.weight_hh_l0"], after["lstm.weight_hh_l0"]) == (steps == 0)


@pytest.mark.parametrize("field", ["rewards", "values", "bootstrap"])
def test_returns_that_overflow_are_refused_before_anything_changes(field):
    learner = one_pass()
    episodes = a_round(learner)
    whole = learner.weights()
    bad = math.inf if field == "bootstrap" else np.full(4, math.inf)
    spoilt = changed(episodes[0], **{field: bad})
    refused(learner, [spoilt, episodes[1]], FloatingPointError, "PPO returns are not finite")
    assert tensors_equal(learner.weights(), whole)


def test_a_step_without_any_legal_operation_is_refused():
    learner = one_pass()
    episodes = a_round(learner)
    masks = episodes[1].trajectory.masks.copy()
    masks[2, : 6 * 2] = 0
    refused(learner, [episodes[0], changed(episodes[1], masks=masks)], ValueError, "without any legal operation")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_observation_that_is_not_finite_is_refused(bad):
    learner = one_pass()
    episodes = a_round(learner)
    features = episodes[1].trajectory.features.copy()
    features[3, 40] = bad
    refused(learner, [episodes[0], changed(episodes[1], features=features)], ValueError, "not finite")


@pytest.mark.parametrize(("what", "match"), [("features", "not finite"), ("masks", "without any legal operation")])
def test_a_player_refuses_what_the_learner_would_refuse(what, match):
    learner = one_pass()
    policy = LearnedPolicy(learner.config.policy)
    policy.load(learner.weights(), 0.1)
    policy.begin_episode(0)
    trajectory, masks = synthetic(1, [0.0]).trajectory, open_masks(2)
    signals = HostSignals(0, 3, 1.0, 50.0, (), (), 0, True)
    view = View(trajectory.features[0], trajectory.blueprints[0], masks, (None, None), signals)
    assert masks.allows(policy.decide(view).action)
    if what == "features":
        view.features[7] = math.nan
    else:
        masks.slot_by_op[:] = False
    with pytest.raises(ValueError, match=match):
        policy.decide(view)


def bandits(learner, spread):
    """Six episodes of one step, half of them paid ``spread`` and the others its opposite: variance ``spread ** 2``."""
    paid = [spread if i % 2 else -spread for i in range(6)]
    return [behaved(learner, synthetic(1, [reward], seed=i), [FOSSILIZE]) for i, reward in enumerate(paid)]


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
def test_returns_that_hardly_vary_in_the_unit_of_the_critic_are_flagged(spread, unit, flag):
    """The unit is the one in which the round was played: the update itself moves on to that of its own returns."""
    learner = one_pass(ppo__gae_lambda=1.0)
    learner.network.rescale_values(unit)
    report = learner.update(bandits(learner, spread), 0)
    assert report["return_variance"] == pytest.approx(spread**2, rel=1e-3, abs=1e-12)
    assert report["low_variance"] == flag
    assert math.isnan(report["explained_variance"]) == (spread == 0.0)
    assert pytest.approx(1e-4) == LOW_VARIANCE


def test_explained_variance_says_nothing_where_the_flag_is_raised():
    """A critic that is wrong by less than a hundredth of a unit everywhere looks like a disaster."""
    learner = one_pass(ppo__gae_lambda=1.0)
    episodes = bandits(learner, 1e-3)
    missed = [
        changed(e, values=e.trajectory.rewards + np.float64(0.01) * (-1) ** (i // 2)) for i, e in enumerate(episodes)
    ]
    report = learner.update(missed, 0)
    assert report["explained_variance"] < -50
    assert report["low_variance"] == 1.0


def test_the_flag_stands_beside_the_variance_in_the_table_of_rounds():
    place = DIAGNOSTICS.index("return_variance")
    assert DIAGNOSTICS[place - 1 : place + 2] == ("explained_variance", "return_variance", "low_variance")


def test_a_collapsed_policy_shows_in_the_entropies():
    healthy, collapsed = one_pass(), one_pass()
    with torch.no_grad():
        collapsed.network.op_head[-1].bias[0] = 30.0
    sound, dead = (learner.update(a_round(learner), 0) for learner in (healthy, collapsed))
    assert sound["entropy_op"] > 1.0
    assert sound["entropy"] > 2.0
    assert dead["entropy_op"] < 1e-6
    assert dead["entropy"] < 1e-6


def test_forced_steps_are_no_collapse():
    """Where WAIT is all there is, the entropies of heads are unknown, not zero; other steps are not diluted by it."""
    learner = one_pass()
    forced = open_masks(2)
    forced.slot_by_op[1:] = False
    closed = behaved(learner, synthetic(4, [0.0] * 4, masks=forced), [WAIT] * 4)
    assert math.isnan(learner.update([closed], 0)["entropy_op"])
    free, mixed = one_pass(), one_pass()
    alone = [behaved(free, synthetic(4, [1.0, 0.0, 2.0, 0.0], seed=3), [FOSSILIZE, WAIT, FOSSILIZE, WAIT])]
    expected, found = free.update(alone, 0), mixed.update([*alone, closed], 0)
    assert found["entropy"] == pytest.approx(expected["entropy"], rel=1e-5)
    assert found["entropy_op"] == pytest.approx(expected["entropy_op"], rel=1e-3)


@pytest.mark.parametrize(("shift", "share"), [(0.0, 0.0), (0.15, 0.0), (0.25, 1.0), (-0.25, 1.0)])
def test_ratios_outside_the_clip_range_are_counted(shift, share):
    """exp(0.15) = 1.16 is inside 0.8 to 1.2, exp(0.25) = 1.28 and exp(-0.25) = 0.78 are not."""
    learner = one_pass(ppo__target_kl=1e9)
    moved = [
        changed(episode, log_prob_op=episode.trajectory.log_prob_op - np.float32(shift)) for episode in a_round(learner)
    ]
    report = learner.update(moved, 0)
    assert report["clip_share"] == pytest.approx(share)
    assert report["kl"] == pytest.approx(math.expm1(shift) - shift, abs=1e-5)


def test_the_critic_takes_the_spread_of_the_discounted_returns_as_its_unit():
    """Before it learns, so that its targets have a spread of one; what it predicts in units of reward stays."""
    learner = one_pass(gamma=0.5, ppo__lr=1e-9)
    rewards = ([4.0, 0.0, 8.0, 0.0], [0.0, 2.0, 0.0, 16.0])
    episodes = [drawn(learner, synthetic(4, np.array(r), seed=i), i) for i, r in enumerate(rewards)]
    discounted = [6.0, 4.0, 8.0, 0.0, 3.0, 6.0, 8.0, 16.0]
    view = a_round(learner)
    batch = module.padded_batch(view, learner.device)
    with torch.no_grad():
        before = learner._evaluate(batch, 0.0)[3] * learner.network.value_scale
    statistics = copy.deepcopy(learner.network.normaliser.state_dict())
    learner.update(episodes, 0)
    assert float(learner.network.value_scale) == pytest.approx(np.std(discounted), rel=1e-6)
    learner.network.normaliser.load_state_dict(statistics)
    with torch.no_grad():
        after = learner._evaluate(batch, 0.0)[3] * learner.network.value_scale
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
