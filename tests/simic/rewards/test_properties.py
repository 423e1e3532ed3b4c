"""Properties of the reward of one step, and of the credit of a seed (section 18, P1 to P18)."""

import math
from dataclasses import replace

import pytest
from formula_builders import (
    CONFIGS,
    ESCROW,
    GAMMA,
    OPERATIONS,
    SHAPED,
    STEP_MODES,
    hundredths,
    maybe,
    pay,
    points,
    seed,
    seeds,
    step,
    steps,
    with_seed,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_inputs import LossInputs
from reference_step import loss_step_reward, step_reward

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import AMPLIFIED, STAGES, Stage
from esper_ray.simic.ledger import RewardError
from esper_ray.simic.rewards import credit

modes = st.sampled_from(STEP_MODES)
credit_modes = st.sampled_from(["shaped", "escrow"])
LIVE = tuple(stage for stage in STAGES if stage is not Stage.FOSSILIZED)
TRUSTING = RewardConfig(disable_anti_gaming=True)
KNOWN = points(-5, 15)
FULL_RECORD = {
    "attribution",
    "blending warning",
    "holding warning",
    "synergy",
    "shaping",
    "rent",
    "shock",
    "occupancy",
    "upkeep",
    "operation",
    "terminal",
}


@settings(max_examples=100)
@given(inputs=steps(), mode=modes)
def test_rewards_and_all_their_terms_are_finite_and_bounded(inputs, mode):
    """P1."""
    reward = pay(inputs, CONFIGS[mode])
    assert all(math.isfinite(amount) for _, amount in reward.amounts)
    assert math.isfinite(reward.total)
    assert abs(reward.total) <= 50.0


@settings(max_examples=60)
@given(
    change=points(-100, 100),
    loss=points(0, 100),
    overhead=st.integers(-10, 10**9),
    grown=maybe(seeds()),
    epoch=st.sampled_from([9, 10]),
)
def test_rewards_of_the_loss_family_are_finite_and_bounded(change, loss, overhead, grown, epoch):
    """P1."""
    inputs = LossInputs(epoch, 10, change, loss, 100, 100 + overhead, grown)
    reward = loss_step_reward(inputs, RewardConfig(family="loss"), GAMMA)
    assert -12.5 - 5.0 - 0.6 <= reward.total <= 25.0 + 0.6 + 1.0


@settings(max_examples=100)
@given(inputs=steps(), mode=modes)
def test_the_total_is_the_sum_of_the_terms_and_each_source_is_named_once(inputs, mode):
    """P2, P4: the total is computed from its terms only."""
    reward = pay(inputs, CONFIGS[mode])
    sources = [source for source, _ in reward.amounts if source != "drip"]
    assert len(set(sources)) == len(sources)
    assert sum(reward.of(source) for source in {*sources, "drip"}) == pytest.approx(reward.total, abs=1e-9)
    if mode in ("shaped", "escrow"):
        assert set(sources) <= FULL_RECORD | {"suspicion"}
    if mode == "escrow":
        assert "suspicion" not in sources


@settings(max_examples=60)
@given(inputs=steps(), mode=credit_modes, heavier=points(1, 1e6))
def test_each_input_changes_its_own_term_only(inputs, mode, heavier):
    """P2."""
    config = CONFIGS[mode]
    changes = {
        "rent": {"effective_parameters": heavier + 1e6},
        "shock": {"squared_alpha_changes": inputs.squared_alpha_changes + heavier},
        "occupancy": {"live_seeds": inputs.live_seeds + 3},
    }
    before = pay(inputs, config)
    for source, change in changes.items():
        after = pay(replace(inputs, **change), config)
        assert after.total - before.total == pytest.approx(after.of(source) - before.of(source), abs=1e-9)
        assert after.of(source) <= before.of(source)


@settings(max_examples=60)
@given(inputs=steps(), earlier=steps(), mode=modes)
def test_earlier_rewards_do_not_change_a_reward(inputs, earlier, mode):
    """P3."""
    first = pay(inputs, CONFIGS[mode])
    pay(earlier, CONFIGS[mode])
    assert pay(inputs, CONFIGS[mode]) == first


def test_settlement_has_no_reward_for_a_single_step():
    """P4."""
    with pytest.raises(RewardError, match="'settlement' has no reward for a single step") as caught:
        step_reward(step(), RewardConfig(mode="settlement"), GAMMA)
    assert caught.value.reason == "episodes_only"


@settings(max_examples=60)
@given(inputs=steps(seeded=False, contributions=st.none()))
def test_attribution_without_a_seed_is_zero(inputs):
    """P5: for any progress of the host."""
    assert pay(inputs).of("attribution", "suspicion") == 0.0
    without_refund = pay(replace(inputs, operation=LifecycleOp.WAIT), ESCROW)
    assert without_refund.of("attribution") == 0.0


@settings(max_examples=60)
@given(inputs=steps(stages=tuple(set(STAGES) - AMPLIFIED), seeded=True, contributions=st.none()))
def test_attribution_of_an_unmeasured_seed_before_blending_is_zero(inputs):
    """P6: for any drift of the host."""
    assert pay(inputs).of("attribution", "suspicion") == 0.0


@settings(max_examples=60)
@given(inputs=steps(seeded=True, contributions=points(0, 15)), progress=points(0, 40))
def test_attribution_lies_between_zero_and_the_contribution(inputs, progress):
    """P7."""
    inputs = replace(inputs, operation=LifecycleOp.WAIT, accuracy=50 + progress, accuracy_at_germination=50.0)
    assert 0.0 <= pay(inputs, TRUSTING).of("attribution", "suspicion") <= inputs.contribution + 1e-9


@settings(max_examples=60)
@given(
    inputs=steps(stages=LIVE, contributions=points(-5, -0.001), operations=[LifecycleOp.WAIT]),
    weight=points(0, 3),
)
def test_harm_is_charged_in_proportion_to_the_contribution_weight(inputs, weight):
    """P8: without discounts, for any progress since germination."""
    shaped, escrow = (RewardConfig(mode=mode, contribution_weight=weight) for mode in ("shaped", "escrow"))
    assert pay(inputs, shaped).of("attribution", "suspicion") == pytest.approx(weight * inputs.contribution)
    charged = weight * inputs.contribution - inputs.escrow_credit
    assert pay(inputs, escrow).of("attribution") == pytest.approx(charged)


@settings(max_examples=60)
@given(a=points(0.001, 100), b=points(0.001, 100))
def test_minimum_harmonic_and_geometric_mean_are_ordered(a, b):
    """P9."""
    small, mean, large = credit.minimum(a, b), credit.harmonic(a, b), credit.geometric(a, b)
    assert small * (1 - 1e-9) <= mean <= 2 * small * (1 + 1e-9)
    assert mean <= large * (1 + 1e-9)
    assert mean == credit.harmonic(b, a)


@settings(max_examples=60)
@given(a=points(0.001, 100), b=points(0, 100))
def test_means_agree_on_equal_numbers_and_are_zero_without_two_positive_ones(a, b):
    """P9."""
    for mean in (credit.minimum, credit.harmonic, credit.geometric):
        assert mean(a, a) == pytest.approx(a)
        assert mean(a, -b) == mean(-b, a) == mean(-b, -a) == 0.0


@settings(max_examples=60)
@given(
    inputs=steps(seeded=True, contributions=KNOWN),
    drift=maybe(points(-50, 50)),
    change=points(-50, 50),
    mode=credit_modes,
)
def test_the_pay_of_a_measured_seed_is_independent_of_host_drift(inputs, drift, change, mode):
    """P10."""
    drifted = replace(with_seed(inputs, improvement_since_stage=drift), accuracy_change=change)
    assert pay(drifted, CONFIGS[mode]) == pay(inputs, CONFIGS[mode])


@settings(max_examples=60)
@given(inputs=steps(seeded=True, contributions=KNOWN), mode=credit_modes)
def test_a_contribution_without_the_joint_improvement_is_refused(inputs, mode):
    """P11."""
    with pytest.raises(RewardError, match="improvement by all seeds together was not") as caught:
        pay(with_seed(inputs, improvement=None), CONFIGS[mode])
    assert caught.value.reason == "contribution_without_counterfactual"


@settings(max_examples=60)
@given(low=points(-1000, -1e-6), apart=points(0, 100), steepness=points(0.1, 10))
def test_the_improvement_discount_falls_with_the_damage(low, apart, steepness):
    """P12."""
    worse, better = (credit.improvement_discount(cf, steepness) for cf in (low, min(low + apart, -1e-7)))
    assert 0.0 < worse <= better < 0.5
    assert credit.improvement_discount(-low, steepness) == credit.improvement_discount(0.0, steepness) == 1.0


@settings(max_examples=60)
@given(inputs=steps())
def test_pruning_negates_attribution(inputs):
    """P13."""
    waited = pay(replace(inputs, operation=LifecycleOp.WAIT))
    pruned = pay(replace(inputs, operation=LifecycleOp.PRUNE))
    assert pruned.of("attribution") == -waited.of("attribution")


@settings(max_examples=60)
@given(inputs=steps(stages=LIVE, seeded=True, contributions=points(1.001, 15)), improvement=hundredths(-1, 2))
def test_suspicion_is_a_penalty_of_the_same_size_for_every_operation(inputs, improvement):
    """P13, P16: a prune does not change its sign."""
    doubted = with_seed(inputs, improvement=improvement)
    charges = {pay(replace(doubted, operation=operation)).of("suspicion") for operation in OPERATIONS}
    assert len(charges) == 1
    assert -0.3 <= min(charges) <= 0.0
    if abs(inputs.contribution - 5 * improvement) > 1e-6:
        assert (min(charges) < 0) == (0 <= improvement <= 0.1 or 0 < 5 * improvement < inputs.contribution)


@settings(max_examples=60)
@given(inputs=steps(stages=(Stage.FOSSILIZED,), seeded=True))
def test_attribution_of_a_committed_seed_is_zero(inputs):
    """P14. A prune in escrow mode refunds the credit, see P34."""
    assert pay(inputs).of("attribution", "suspicion") == 0.0
    if inputs.operation is not LifecycleOp.PRUNE:
        assert pay(inputs, ESCROW).of("attribution") == 0.0


@settings(max_examples=60)
@given(
    inputs=steps(seeded=True, contributions=KNOWN, operations=[LifecycleOp.FOSSILIZE]),
    improvement=points(-10, -0.001),
    mode=credit_modes,
)
def test_attribution_of_a_harmful_commitment_is_zero(inputs, improvement, mode):
    """P15: its harm is not charged either."""
    reward = pay(with_seed(inputs, improvement=improvement), CONFIGS[mode])
    assert reward.of("attribution", "suspicion", "synergy") == 0.0


@settings(max_examples=60)
@given(contribution=points(1.001, 100), improvement=points(-10, 100), less=points(0.1, 1))
def test_suspicion_grows_with_the_ratio_of_claim_and_improvement(contribution, improvement, less):
    """P16."""
    charge = credit.suspicion(contribution, improvement, 1.0, SHAPED)
    if improvement > 0.1002:
        assert charge <= credit.suspicion(max(1.001, less * contribution), improvement, 1.0, SHAPED)
        assert charge >= credit.suspicion(contribution, improvement * max(less, 0.1001 / improvement), 1.0, SHAPED)
        assert (charge < 0) == (contribution / improvement > 5.0)
    elif improvement <= 0.1:
        assert charge < 0
    assert credit.suspicion(min(contribution, 1.0), improvement, 1.0, SHAPED) == 0.0
    assert credit.suspicion(contribution, improvement, 0.4999, SHAPED) == 0.0
    assert credit.suspicion(contribution, improvement, 1.0, TRUSTING) == 0.0


@settings(max_examples=60)
@given(
    stage=st.sampled_from([Stage.BLENDING, Stage.HOLDING]),
    ticks=st.integers(1, 40),
    contribution=points(1, 15),
    improvement=points(-10, -0.2),
    progress=points(-40, 0),
    interaction=points(-5, 10),
)
def test_a_ransom_without_progress_earns_no_synergy_and_at_most_half_a_point(
    stage, ticks, contribution, improvement, progress, interaction
):
    """P17 without progress of the host, as in the reference; see live/test_contribution.py for any progress."""
    held = seed(stage, ticks, improvement=improvement, interaction_sum=interaction)
    reward = pay(step(seed=held, contribution=contribution, accuracy=60 + progress, accuracy_at_germination=60.0))
    assert reward.of("synergy") == 0.0
    assert reward.total <= 0.5


@settings(max_examples=60)
@given(epoch=st.integers(0, 60), later=st.integers(0, 60), warmup=st.integers(0, 50), floor=points(0, 1))
def test_the_timing_discount_rises_from_its_floor_to_one(epoch, later, warmup, floor):
    """P18."""
    factor = credit.timing_discount(epoch, warmup, floor)
    assert floor <= factor <= credit.timing_discount(epoch + later, warmup, floor) <= 1.0
    assert credit.timing_discount(warmup + later, warmup, floor) == 1.0


@settings(max_examples=60)
@given(inputs=steps(operations=[LifecycleOp.GERMINATE], seeded=False, contributions=st.none()), early=st.integers(1, 4))
def test_an_early_germination_earns_at_least_a_third_less(inputs, early):
    """P18: the deposit loses 35 percent or more in the first four epochs."""
    config = RewardConfig(germinate_cost=0.0)
    soon, late = (pay(replace(inputs, epoch=e, max_epochs=150), config).of("operation") for e in (early, 10))
    assert 0.0 < soon <= 0.65 * late
    always = RewardConfig(germinate_cost=0.0, disable_timing_discount=True)
    assert pay(replace(inputs, epoch=early, max_epochs=150), always).of("operation") == late
