"""Properties of warnings, costs, operations and potentials in the formulas (section 18, P19 to P29 and P31)."""

from dataclasses import replace

import pytest
from formula_builders import CONFIGS, GAMMA, SHAPED, STEP_MODES, maybe, pay, points, seed, step, steps, with_seed
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.leyline.actions import AlphaCurve, LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import STAGES, Stage
from esper_ray.simic.rewards import costs, operations, shaping

credit_modes = st.sampled_from(["shaped", "escrow"])
stages = st.sampled_from(STAGES)
LIFECYCLE = (Stage.DORMANT, Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
EMPTY_OR_FAILED = tuple(stage for stage in STAGES if stage not in LIFECYCLE[1:])


@settings(max_examples=100)
@given(inputs=steps(seeded=True), mode=credit_modes)
def test_blending_has_a_warning_iff_the_joint_improvement_is_negative(inputs, mode):
    """P19: for any operation; unknown improvement and drift of the host cause no warning."""
    warning = pay(inputs, CONFIGS[mode]).of("blending warning")
    hurts = inputs.seed.improvement is not None and inputs.seed.improvement < 0
    assert (warning < 0) == (inputs.seed.stage is Stage.BLENDING and hurts)
    assert -0.4 <= warning <= 0.0
    if hurts:
        assert pay(with_seed(inputs, ticks=inputs.seed.ticks + 1), CONFIGS[mode]).of("blending warning") <= warning


@settings(max_examples=100)
@given(inputs=steps(stages=(Stage.HOLDING,), seeded=True), mode=credit_modes)
def test_holding_has_a_warning_from_the_second_epoch_if_it_earns(inputs, mode):
    """P20."""
    config = CONFIGS[mode]
    waiting = pay(replace(inputs, operation=LifecycleOp.WAIT), config)
    for operation in (LifecycleOp.SET_ALPHA_TARGET, LifecycleOp.ADVANCE, LifecycleOp.GERMINATE):
        assert pay(replace(inputs, operation=operation), config).of("holding warning") == waiting.of("holding warning")
    for operation in (LifecycleOp.FOSSILIZE, LifecycleOp.PRUNE):
        assert pay(replace(inputs, operation=operation), config).of("holding warning") == 0.0
    if inputs.seed.ticks < 2 or waiting.of("attribution", "suspicion") <= 0:
        assert waiting.of("holding warning") == 0.0
    else:
        assert -0.3 <= waiting.of("holding warning") <= -0.1


@settings(max_examples=60)
@given(ticks=st.integers(2, 30), attribution=points(1e-6, 15), stage=stages)
def test_the_holding_warning_grows_by_a_twentieth_per_epoch_to_its_floor(ticks, attribution, stage):
    """P20."""
    here, after = (operations.holding_warning(Stage.HOLDING, n, attribution) for n in (ticks, ticks + 1))
    assert after - here == pytest.approx(-0.05 if ticks < 6 else 0.0, abs=1e-12)
    if stage is not Stage.HOLDING:
        assert operations.holding_warning(stage, ticks, attribution) == 0.0


@settings(max_examples=60)
@given(overhead=points(1, 1e5), step_up=points(1, 1e5), host=st.integers(1, 10**6))
def test_logarithmic_rent_is_concave_up_to_its_cap(overhead, step_up, host):
    """P21."""
    low, middle, high = (
        costs.logarithmic_rent(overhead + k * step_up, host, RewardConfig(max_rent=100.0)) for k in (0, 1, 2)
    )
    assert 0.0 < low < middle < high
    assert high - middle <= (middle - low) * (1 + 1e-9)
    capped = costs.logarithmic_rent(overhead, host, SHAPED)
    assert capped == pytest.approx(min(low, 1.5))


@settings(max_examples=60)
@given(overhead=points(1, 1e5), host=st.integers(1, 200), relief=points(0, 1e6))
def test_a_tiny_host_pays_rent_as_a_host_of_two_hundred_parameters(overhead, host, relief):
    """P21: without overhead or host the rent is zero."""
    rent = costs.logarithmic_rent(overhead, host, SHAPED)
    assert rent == costs.logarithmic_rent(overhead, 200, SHAPED)
    assert costs.logarithmic_rent(-relief, host, SHAPED) == costs.logarithmic_rent(overhead, 0, SHAPED) == 0.0


@settings(max_examples=60)
@given(overhead=points(0, 1e6), more=points(1, 1e6), budget=points(1, 1e6))
def test_linear_rent_is_proportional(overhead, more, budget):
    config = RewardConfig(param_budget=budget)
    together = costs.linear_rent(overhead + more, config)
    assert together == pytest.approx(costs.linear_rent(overhead, config) + 0.1 * more / budget)


@settings(max_examples=60)
@given(changes=points(0, 1e4), more=points(0, 1e4))
def test_shock_lies_between_zero_and_its_cap(changes, more):
    """P22."""
    assert -1.0 <= costs.shock(changes + more, SHAPED) <= costs.shock(changes, SHAPED) <= 0.0
    assert costs.shock(changes, RewardConfig(disable_anti_gaming=True)) == 0.0


@settings(max_examples=60)
@given(
    curve=st.sampled_from(AlphaCurve),
    steepness=points(0.5, 8),
    start=points(0, 1),
    move=st.sampled_from([-1, 1]).flatmap(lambda sign: points(0.05, 1).map(lambda size: sign * size)),
)
def test_a_slower_ramp_of_the_amplitude_costs_less(curve, steepness, start, move):
    """P22: 1 > 3 > 5 > 8 ticks, with every curve."""
    target = min(max(start + move, 0.0), 1.0)
    if abs(target - start) < 0.05:
        start, target = 0.0, 1.0
    sums = []
    for ticks in (1, 3, 5, 8):
        controller = AlphaController(alpha=start).retargeted(target, ticks, curve, steepness)
        total = 0.0
        for _ in range(ticks):
            after = controller.ticked()
            total += costs.squared_change(controller.alpha, after.alpha, 1000, 2000, 200)
            controller = after
        assert controller.alpha == target
        sums.append(total)
    assert sums[0] == pytest.approx((target - start) ** 2 / 2)
    assert sums[0] > sums[1] > sums[2] > sums[3] > 0


@settings(max_examples=60)
@given(live=st.integers(0, 20), committed=st.integers(0, 20), free=st.integers(0, 5))
def test_every_live_or_committed_seed_beyond_the_free_ones_is_charged(live, committed, free):
    """P23: committed seeds count too. The caller decides which stages count as live."""
    config = RewardConfig(free_slots=free)
    places = [0.01 for _ in range(live + committed)][free:]
    assert costs.occupancy(live, committed, config) == pytest.approx(sum(places))
    assert costs.upkeep(committed, config) == pytest.approx(0.002 * committed)


@settings(max_examples=60)
@given(costs=st.lists(points(-2, 0), min_size=4, max_size=4))
def test_operations_are_charged_and_wait_is_free(costs):
    """P24."""
    germinate, fossilize, prune, target = costs
    config = RewardConfig(
        germinate_cost=germinate, fossilize_cost=fossilize, prune_cost=prune, set_alpha_target_cost=target
    )
    assert {operation: operations.operation_cost(operation, config) for operation in LifecycleOp} == {
        LifecycleOp.WAIT: 0.0,
        LifecycleOp.ADVANCE: 0.0,
        LifecycleOp.GERMINATE: germinate,
        LifecycleOp.FOSSILIZE: fossilize,
        LifecycleOp.PRUNE: prune,
        LifecycleOp.SET_ALPHA_TARGET: target,
    }


@settings(max_examples=60)
@given(
    inputs=steps(stages=tuple(set(STAGES) - {Stage.HOLDING}), operations=[LifecycleOp.FOSSILIZE]),
    mode=credit_modes,
)
def test_an_impossible_commitment_costs_at_least_one(inputs, mode):
    """P25."""
    assert pay(inputs, CONFIGS[mode]).of("operation") == pytest.approx(-1.01)


@settings(max_examples=60)
@given(inputs=steps(stages=(Stage.FOSSILIZED,), operations=[LifecycleOp.PRUNE], seeded=True), mode=credit_modes)
def test_pruning_a_committed_seed_costs_at_least_one(inputs, mode):
    """P25: in addition to its potential."""
    assert pay(inputs, CONFIGS[mode]).of("operation") <= -1.0 - 0.3 * 6.0


@settings(max_examples=60)
@given(inputs=steps(last=False), mode=st.sampled_from(STEP_MODES))
def test_no_terminal_bonus_is_paid_before_the_end(inputs, mode):
    """P26."""
    assert "terminal" not in [source for source, _ in pay(inputs, CONFIGS[mode]).amounts]


@settings(max_examples=60)
@given(inputs=steps(last=True, operations=[LifecycleOp.GERMINATE], seeded=False), mode=credit_modes)
def test_a_germination_in_the_last_step_has_no_deposit(inputs, mode):
    """P26."""
    reward = pay(inputs, CONFIGS[mode])
    assert reward.of("operation") == -0.15
    assert reward.of("terminal") == pytest.approx(0.05 * inputs.accuracy)


@settings(max_examples=60)
@given(ticks=st.integers(0, 30), contribution=points(1, 15), improvement=points(0, 15))
def test_a_good_commitment_is_paid_in_proportion_to_its_dwell(ticks, contribution, improvement):
    """P27."""
    for paid in (operations.commitment_pay, operations.commitment_bonus):
        full = paid(Stage.HOLDING, 5, contribution, improvement, SHAPED)
        assert full > 0
        share = min(ticks, 5) / 5
        assert paid(Stage.HOLDING, ticks, contribution, improvement, SHAPED) == pytest.approx(share * full)
        assert paid(Stage.HOLDING, 0, contribution, improvement, SHAPED) == 0.0


@settings(max_examples=60)
@given(ticks=st.integers(0, 30), contribution=maybe(points(-5, 15)), improvement=points(-20, -1e-6), stage=stages)
def test_a_harmful_commitment_is_charged_at_any_dwell(ticks, contribution, improvement, stage):
    """P27."""
    assert operations.commitment_pay(stage, ticks, contribution, improvement, SHAPED) <= -0.5
    assert operations.commitment_bonus(stage, ticks, contribution, improvement, SHAPED) == 0.0


@settings(max_examples=60)
@given(earlier=st.integers(0, 4), later=st.integers(1, 5), ticks=st.integers(0, 40), empty=st.sampled_from(STAGES))
def test_potentials_rise_along_the_lifecycle_and_are_zero_without_a_seed(earlier, later, ticks, empty):
    """P28: at equal dwell, which adds the same in every stage."""
    first, second = LIFECYCLE[earlier], LIFECYCLE[min(5, earlier + later)]
    assert shaping.stage_potential(first) < shaping.stage_potential(second)
    assert shaping.seed_potential(first, ticks, SHAPED) < shaping.seed_potential(second, ticks, SHAPED)
    assert shaping.seed_potential(second, 0, SHAPED) == shaping.stage_potential(second)
    if empty in EMPTY_OR_FAILED:
        assert shaping.stage_potential(empty) == 0.0


@settings(max_examples=60)
@given(inputs=steps(seeded=True, operations=[LifecycleOp.WAIT]))
def test_the_stage_bonus_is_the_same_in_every_mode_that_has_one(inputs):
    """P28: one definition."""
    paid = {pay(inputs, CONFIGS[mode]).of("shaping") for mode in ("shaped", "escrow", "basic", "basic_plus")}
    paid.add(pay(inputs, CONFIGS["simplified"]).of("shaping"))
    assert len(paid) == 1
    without = {mode: RewardConfig(mode=mode, disable_pbrs=True) for mode in STEP_MODES}
    assert {pay(inputs, config).of("shaping") for config in without.values()} == {0.0}


@settings(max_examples=60)
@given(path=st.lists(points(0, 20), min_size=2, max_size=30), gamma=points(0.5, 1.0), weight=points(0, 2))
def test_discounted_shaping_telescopes_over_any_path_of_potentials(path, gamma, weight):
    """P29."""
    ends = len(path) - 1
    total = sum(gamma**t * shaping.shaping(path[t], path[t + 1], gamma, weight) for t in range(ends))
    assert total == pytest.approx(weight * (gamma**ends * path[-1] - path[0]), abs=1e-9)


@settings(max_examples=60)
@given(dwells=st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_undiscounted_stage_bonuses_telescope_over_a_lifecycle(dwells):
    """P29: from germination through each stage's dwell; see live/ for episodes."""
    total, previous, previous_ticks = 0.0, Stage.DORMANT, 0
    for stage, dwell in zip(LIFECYCLE[1:], dwells, strict=False):
        for ticks in range(dwell + 1):
            total += shaping.stage_bonus(stage, ticks, previous, previous_ticks, 1.0, SHAPED)
        previous, previous_ticks = stage, dwell
    reached = {1: 1.0, 2: 2.0, 3: 3.5, 4: 5.5}[len(dwells)] + min(0.3 * dwells[-1], 2.0)
    assert total == pytest.approx(0.3 * reached)


@settings(max_examples=60)
@given(
    inputs=steps(last=False, seeded=False, contributions=st.none()),
    floor=points(0.0, 1.0),
    mode=credit_modes,
)
def test_free_germination_pays_more_than_waiting_on_an_empty_slot(inputs, floor, mode):
    """P31."""
    config = RewardConfig(mode=mode, germinate_cost=0.0, germination_discount_floor=floor)
    waiting, germinating = (
        pay(replace(inputs, operation=operation), config) for operation in (LifecycleOp.WAIT, LifecycleOp.GERMINATE)
    )
    assert germinating.total > waiting.total


def test_a_prune_forfeits_the_potential_of_the_dwell():
    """P30 holds within one stage: the discounted shaping of germinate, wait and prune is no gain."""
    deposit = pay(step(LifecycleOp.GERMINATE, epoch=40)).of("operation") + 0.15
    total = deposit + sum(GAMMA**n * pay(step(seed=seed(Stage.GERMINATED, n))).of("shaping") for n in range(1, 7))
    last = pay(step(LifecycleOp.PRUNE, seed(Stage.GERMINATED, 7)))
    assert last.of("operation") == pytest.approx(-0.3 * 3.0 - 0.005)
    total += GAMMA**7 * (last.of("shaping") - 0.9)
    assert total < 0
