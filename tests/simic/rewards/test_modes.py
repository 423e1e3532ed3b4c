"""Properties of the modes that pay at the end, of ``simplified`` and of the loss family (section 18, P44 to P46)."""

from dataclasses import replace

import pytest
from formula_builders import CONFIGS, GAMMA, OPERATIONS, maybe, pay, points, seed, seeds, step, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_inputs import LossInputs
from reference_step import loss_step_reward, step_reward

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import STAGES
from esper_ray.simic.ledger import RewardError

SPARSE, MINIMAL, SIMPLIFIED = CONFIGS["sparse"], CONFIGS["minimal"], CONFIGS["simplified"]
LOSS = RewardConfig(family="loss")
late = st.sampled_from(["sparse", "minimal"])


def loss_pay(change=0.0, loss=2.3, overhead=0, grown=None, last=False):
    inputs = LossInputs(150 if last else 60, 150, change, loss, 100, 100 + overhead, grown)
    return loss_step_reward(inputs, LOSS, GAMMA)


@settings(max_examples=60)
@given(inputs=steps(last=False))
def test_sparse_pays_nothing_before_the_end(inputs):
    """P44."""
    assert pay(inputs, SPARSE).total == 0.0


@settings(max_examples=60)
@given(inputs=steps(last=True), scale=points(0.01, 10), more=points(0, 50), parameters=st.integers(0, 10**7))
def test_sparse_rises_with_accuracy_and_falls_with_parameters_in_its_scale(inputs, scale, more, parameters):
    """P44."""
    config = RewardConfig(mode="sparse", sparse_reward_scale=scale)
    total = pay(inputs, config).total
    assert -scale <= total <= scale
    better = replace(inputs, committed_accuracy=inputs.committed_accuracy + more)
    heavier = replace(inputs, committed_parameters=inputs.committed_parameters + parameters)
    assert pay(better, config).total >= total >= pay(heavier, config).total


@pytest.mark.parametrize("mode", ["sparse", "minimal"])
def test_ten_points_of_accuracy_are_worth_four_hundred_thousand_parameters(mode):
    """P44."""
    strong = step(epoch=150, committed_accuracy=80.0, committed_parameters=500_000)
    light = step(epoch=150, committed_accuracy=70.0, committed_parameters=100_000)
    assert pay(strong, CONFIGS[mode]).total == pytest.approx(0.7)
    assert pay(light, CONFIGS[mode]).total == pytest.approx(0.68)


@settings(max_examples=60)
@given(inputs=steps(), mode=late)
def test_pay_for_committed_accuracy_needs_it_at_every_step(inputs, mode):
    with pytest.raises(RewardError, match=f"mode '{mode}' needs the committed accuracy") as caught:
        pay(replace(inputs, committed_accuracy=None), CONFIGS[mode])
    assert caught.value.reason == "committed_accuracy_required"


@settings(max_examples=100)
@given(inputs=steps(), unrelated=steps(), mode=late)
def test_pay_for_committed_accuracy_ignores_everything_else(inputs, unrelated, mode):
    """P44: uncommitted seeds, intermediate accuracy, rents and drips."""
    same = replace(
        unrelated,
        operation=inputs.operation,
        epoch=inputs.epoch,
        max_epochs=inputs.max_epochs,
        seed=inputs.seed,
        committed_accuracy=inputs.committed_accuracy,
        committed_parameters=inputs.committed_parameters,
    )
    assert pay(same, CONFIGS[mode]).total == pay(inputs, CONFIGS[mode]).total


@settings(max_examples=100)
@given(inputs=steps())
def test_minimal_equals_sparse_minus_a_tenth_per_early_prune(inputs):
    """P45."""
    difference = pay(inputs, MINIMAL).total - pay(inputs, SPARSE).total
    early = inputs.operation is LifecycleOp.PRUNE and inputs.seed is not None and inputs.seed.age < 5
    assert difference == pytest.approx(-0.1 if early else 0.0, abs=1e-12)


@settings(max_examples=60)
@given(inputs=steps(), age=st.integers(0, 4), grown=seeds())
def test_every_prune_of_a_young_seed_costs_a_tenth_in_minimal(inputs, age, grown):
    """P45."""
    young = replace(inputs, operation=LifecycleOp.PRUNE, seed=replace(grown, age=age))
    assert pay(young, MINIMAL).total - pay(young, SPARSE).total == pytest.approx(-0.1, abs=1e-12)


@settings(max_examples=60)
@given(inputs=steps(), unrelated=steps(), improvement=maybe(points(-10, 15)))
def test_simplified_ignores_contributions_parameters_and_improvements(inputs, unrelated, improvement):
    """P46."""
    same = replace(
        unrelated,
        operation=inputs.operation,
        epoch=inputs.epoch,
        max_epochs=inputs.max_epochs,
        seed=inputs.seed and replace(inputs.seed, improvement=improvement, improvement_since_stage=None, age=0),
        accuracy=inputs.accuracy,
        contributing_committed_seeds=inputs.contributing_committed_seeds,
    )
    assert pay(same, SIMPLIFIED) == pay(inputs, SIMPLIFIED)


@settings(max_examples=60)
@given(inputs=steps(last=True), accuracy=points(0, 100), more=st.integers(0, 9))
def test_simplified_is_linear_in_final_accuracy_and_contributing_seeds(inputs, accuracy, more):
    """P46."""
    changed = replace(
        inputs, accuracy=accuracy, contributing_committed_seeds=inputs.contributing_committed_seeds + more
    )
    gained = pay(changed, SIMPLIFIED).total - pay(inputs, SIMPLIFIED).total
    assert gained == pytest.approx(0.03 * (accuracy - inputs.accuracy) + 2.0 * more, abs=1e-9)
    ablated = RewardConfig(mode="simplified", disable_terminal_reward=True)
    assert pay(changed, ablated).total == pay(inputs, ablated).total


@settings(max_examples=60)
@given(inputs=steps(last=False), accuracy=points(0, 100))
def test_simplified_charges_a_hundredth_for_every_operation_except_wait(inputs, accuracy):
    """P46: accuracy before the end has no effect."""
    waiting = pay(replace(inputs, operation=LifecycleOp.WAIT, accuracy=accuracy), SIMPLIFIED).total
    for operation in OPERATIONS:
        cost = 0.0 if operation is LifecycleOp.WAIT else -0.01
        total = pay(replace(inputs, operation=operation), SIMPLIFIED).total
        assert total - waiting == pytest.approx(cost, abs=1e-12)


@settings(max_examples=60)
@given(change=points(-3, 3), worse=points(0, 3), grown=maybe(seeds()))
def test_the_loss_term_is_monotone_and_a_rise_counts_half(change, worse, grown):
    """Section 11, the formula's own convention: a negative change is an improvement."""
    assert loss_pay(change, grown=grown).total >= loss_pay(change + worse, grown=grown).total
    assert -12.5 <= loss_pay(change).of("loss") <= 25.0
    size = abs(change)
    assert loss_pay(size).of("loss") == pytest.approx(-0.5 * loss_pay(-size).of("loss"))


@settings(max_examples=60)
@given(overhead=st.integers(-100, 10**6), more=st.integers(0, 10**6), grown=maybe(seeds()))
def test_loss_rent_is_zero_for_young_seeds_and_rises_with_growth(overhead, more, grown):
    less, greater = (-loss_pay(overhead=n, grown=grown).of("rent") for n in (overhead, overhead + more))
    assert 0.0 <= less <= greater <= 5.0
    due = overhead > 0 and (grown is None or grown.age >= 3)
    assert (less > 0) == due


@settings(max_examples=60)
@given(stage=st.sampled_from(STAGES), ticks=st.integers(0, 40), more=st.integers(0, 40))
def test_the_stage_term_of_the_loss_family_is_independent_of_dwell(stage, ticks, more):
    first, second = (loss_pay(grown=seed(stage, n)).of("shaping") for n in (ticks, ticks + more))
    assert first == second


@settings(max_examples=60)
@given(loss=points(-5, 20), lower=points(0, 20))
def test_the_final_loss_is_paid_between_zero_and_one(loss, lower):
    assert 0.0 <= loss_pay(loss=loss, last=True).of("terminal") <= 1.0
    assert loss_pay(loss=loss - lower, last=True).total >= loss_pay(loss=loss, last=True).total
    assert loss_pay(loss=loss).total == loss_pay(loss=loss - lower).total


@pytest.mark.parametrize("mode", CONFIGS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("accuracy", lambda v: {"accuracy": v}),
        ("contribution", lambda v: {"contribution": v}),
        ("improvement", lambda v: {"seed": seed(STAGES[4], improvement=v)}),
        ("committed contributions of s-1", lambda v: {"committed_contributions": {"s-1": v}}),
    ],
)
def test_a_nonfinite_measurement_is_named_in_every_mode(mode, name, fields, value):
    given = {"committed_accuracy": 60.0, "stable_accuracy": 60.0} | fields(value)
    with pytest.raises(RewardError, match=rf"^{name} is {value}, it must be finite; nothing was paid") as caught:
        step_reward(step(**given), CONFIGS[mode], GAMMA)
    assert caught.value.reason == "non_finite_measurement"


def test_a_nonfinite_loss_is_named():
    with pytest.raises(RewardError, match=r"^change is inf"):
        loss_step_reward(LossInputs(1, 9, float("inf"), 1.0, 100, 100), RewardConfig(family="loss"), GAMMA)
