"""Properties of escrow credit and of dripped bonuses (section 18, P33 to P43)."""

from dataclasses import replace

import pytest
from formula_builders import CONFIGS, ESCROW, maybe, pay, points, seed, step, steps, with_seed
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import STAGES, Stage
from esper_ray.simic.ledger import RewardError
from esper_ray.simic.rewards.bonuses import Drip, deferred_bonus, epoch_drip
from esper_ray.simic.rewards.credit import escrow_move

LIVE = tuple(stage for stage in STAGES if stage is not Stage.FOSSILIZED)
PATIENT = tuple(operation for operation in LifecycleOp if operation is not LifecycleOp.PRUNE)
PLUS = CONFIGS["basic_plus"]


@settings(max_examples=100)
@given(inputs=steps())
def test_the_balance_is_the_former_one_plus_the_change_and_never_negative(inputs):
    """P33, P35."""
    move = pay(inputs, ESCROW).escrow
    assert move.previous == inputs.escrow_credit
    assert move.balance == pytest.approx(move.previous + move.change, abs=1e-12)
    assert move.target >= 0.0
    assert move.balance >= -1e-12


@settings(max_examples=60)
@given(
    start=points(0, 15),
    contribution=points(0, 15),
    progress=maybe(points(-40, 40)),
    doubt=points(-0.3, 0),
    clip=points(0.05, 5),
)
def test_credit_moves_in_limited_steps_to_its_target_without_overshoot(start, contribution, progress, doubt, clip):
    """P33, P35."""
    config = RewardConfig(mode="escrow", escrow_delta_clip=clip)
    balance, distance = start, None
    for _ in range(400):
        move = escrow_move(balance, contribution, progress, doubt, config)
        assert abs(move.change) <= clip
        assert move.target >= 0.0
        assert (move.target - balance) * (move.target - move.balance) >= -1e-9  # the same side
        assert distance is None or abs(move.target - move.balance) <= distance
        balance, distance = move.balance, abs(move.target - move.balance)
    assert balance == pytest.approx(move.target, abs=1e-9)


@settings(max_examples=60)
@given(inputs=steps(operations=[LifecycleOp.PRUNE]))
def test_pruning_charges_exactly_the_escrow_credit(inputs):
    """P34, P39: at once, without the limit, in any stage; the balance is zero afterwards."""
    reward = pay(inputs, ESCROW)
    assert reward.of("attribution") == -inputs.escrow_credit
    assert reward.escrow.balance == 0.0


@settings(max_examples=60)
@given(inputs=steps(stages=(Stage.FOSSILIZED,), seeded=True, operations=PATIENT))
def test_the_credit_of_a_committed_seed_is_frozen(inputs):
    """P36, P39: neither paid nor charged."""
    reward = pay(inputs, ESCROW)
    assert reward.escrow.change == reward.of("attribution") == 0.0
    assert reward.escrow.balance == inputs.escrow_credit


@settings(max_examples=60)
@given(inputs=steps(contributions=st.none(), operations=PATIENT))
def test_an_unmeasured_seed_changes_no_credit(inputs):
    """P37."""
    reward = pay(inputs, ESCROW)
    assert reward.escrow.change == reward.of("attribution") == 0.0
    assert reward.escrow.balance == inputs.escrow_credit


@settings(max_examples=60)
@given(
    life=st.lists(st.tuples(maybe(points(-5, 15)), points(30, 90), points(-10, 15)), min_size=1, max_size=20),
    born_at=maybe(points(30, 90)),
    clip=st.sampled_from([0.0, 0.5, 2.0]),
    weight=points(0, 2),
)
def test_uncommitted_credit_sums_to_zero_and_its_harm_stays(life, born_at, clip, weight):
    """P38: payouts minus the balance forfeited at the end; zero if no contribution was negative."""
    config = RewardConfig(mode="escrow", escrow_delta_clip=clip, contribution_weight=weight)
    balance = paid = 0.0
    for contribution, stable, improvement in life:
        inputs = step(
            seed=seed(Stage.BLENDING, improvement=improvement),
            contribution=contribution,
            stable_accuracy=stable,
            accuracy_at_germination=born_at,
            escrow_credit=balance,
        )
        reward = pay(inputs, config)
        balance = reward.escrow.balance
        paid += reward.of("attribution")
    harm = weight * sum(contribution for contribution, _, _ in life if contribution is not None and contribution < 0)
    assert paid - balance == pytest.approx(harm, abs=1e-9)


@settings(max_examples=60)
@given(inputs=steps())
def test_escrow_needs_the_stable_accuracy(inputs):
    with pytest.raises(RewardError) as caught:
        pay(replace(inputs, stable_accuracy=None), ESCROW)
    assert caught.value.reason == "escrow_needs_stable_accuracy"


@settings(max_examples=60)
@given(inputs=steps(stages=LIVE, seeded=True, contributions=points(0, 15), operations=[LifecycleOp.WAIT]))
def test_escrow_neither_discounts_damage_nor_early_germination(inputs):
    """Section 7: D = T = 1; only the stable accuracy counts."""
    older = with_seed(inputs, age=0)
    assert pay(older, ESCROW).escrow == pay(inputs, ESCROW).escrow
    assert pay(replace(inputs, accuracy=inputs.accuracy / 2), ESCROW).escrow == pay(inputs, ESCROW).escrow
    hurting, neutral = (pay(with_seed(inputs, improvement=cf), ESCROW).escrow.target for cf in (-5.0, 0.0))
    assert hurting == neutral


@settings(max_examples=60)
@given(scale=points(0, 5), contribution=points(-50, 50), most=points(0.01, 1), ratio=points(0, 1))
def test_a_drip_has_bounds_and_the_sign_of_the_contribution(scale, contribution, most, ratio):
    """P40."""
    assert -0.05 <= epoch_drip(scale, contribution, 0.1, 0.5) <= 0.1
    paid = epoch_drip(scale, contribution, most, ratio)
    assert -ratio * most <= paid <= most
    assert paid * contribution >= 0.0
    assert epoch_drip(scale, contribution, 1e9, 1.0) == scale * contribution


@settings(max_examples=60)
@given(epoch=st.integers(1, 150), bonus=points(0, 8), contribution=points(0.001, 15), fraction=points(0, 1))
def test_a_constant_contribution_drips_at_most_pool_times_contribution(epoch, bonus, contribution, fraction):
    """P41: whenever the seed was committed."""
    drip = deferred_bonus("r0c0", "s-1", bonus, 150 - epoch, RewardConfig(mode="basic_plus", drip_fraction=fraction))
    lifetime = sum(epoch_drip(drip.scale, contribution, 0.1, 0.5) for _ in range(epoch, 150))
    assert lifetime <= drip.pool * contribution + 1e-9
    unlimited = sum(epoch_drip(drip.scale, contribution, 1e9, 0.5) for _ in range(epoch, 150))
    share = min(1.0, (150 - epoch) / 5)
    assert unlimited == pytest.approx(share * drip.pool * contribution, rel=1e-9)


@settings(max_examples=60)
@given(
    contribution=points(1, 15),
    improvement=points(0.01, 15),
    ticks=st.integers(0, 10),
    epoch=st.integers(1, 150),
    fraction=points(0.01, 1),
)
def test_immediate_pay_and_pool_add_up_to_the_full_bonus(contribution, improvement, ticks, epoch, fraction):
    """P42: ``basic`` pays the same bonus at once."""
    inputs = step(
        LifecycleOp.FOSSILIZE,
        seed(Stage.HOLDING, ticks, improvement=improvement),
        contribution=contribution,
        epoch=epoch,
        slot_id="r0c0",
        seed_id="s-1",
    )
    whole = pay(inputs, CONFIGS["basic"])
    parted = pay(inputs, RewardConfig(mode="basic_plus", drip_fraction=fraction))
    assert whole.drip is None
    assert parted.of("commitment") + parted.drip.pool == pytest.approx(whole.of("commitment"))
    assert parted.drip.pool == pytest.approx(fraction * whole.of("commitment"))
    assert (parted.drip.slot_id, parted.drip.seed_id) == ("r0c0", "s-1")


@settings(max_examples=100)
@given(
    inputs=steps(stages=(Stage.HOLDING, Stage.BLENDING), operations=[LifecycleOp.FOSSILIZE], seeded=True),
    slot_id=st.sampled_from(["r0c0", "r0c1", None]),
    seed_id=st.sampled_from(["s-1", "s-2", None]),
)
def test_only_a_counted_commitment_of_a_named_seed_starts_a_drip(inputs, slot_id, seed_id):
    """P42."""
    inputs = replace(inputs, slot_id=slot_id, seed_id=seed_id)
    started = pay(inputs, PLUS).drip
    counts = (
        inputs.seed.stage is Stage.HOLDING
        and inputs.contribution is not None
        and inputs.contribution >= 1.0
        and inputs.seed.improvement > 0
    )
    assert (started is not None) == bool(counts and slot_id and seed_id)
    if started is None:
        assert pay(inputs, PLUS).of("commitment") == pay(inputs, CONFIGS["basic"]).of("commitment")


@settings(max_examples=60)
@given(
    inputs=steps(
        stages=(Stage.HOLDING,),
        operations=tuple(set(LifecycleOp) - {LifecycleOp.FOSSILIZE}),
        contributions=points(1, 15),
        seeded=True,
    ),
    improvement=points(0.01, 15),
)
def test_no_other_operation_starts_a_drip(inputs, improvement):
    named = replace(with_seed(inputs, improvement=improvement), slot_id="r0c0", seed_id="s-1")
    reward = pay(named, PLUS)
    assert reward.drip is None
    assert reward.of("commitment") == 0.0


@settings(max_examples=60)
@given(inputs=steps(), scale=points(0, 0.2), mode=st.sampled_from(["basic", "basic_plus"]))
def test_a_drip_without_a_measurement_is_an_error(inputs, scale, mode):
    """P43."""
    running = replace(inputs, drips=(*inputs.drips, Drip("r9c9", "s-late", 1.0, scale)))
    with pytest.raises(RewardError, match="'s-late', which was not measured") as caught:
        pay(running, CONFIGS[mode])
    assert caught.value.reason == "drip_seed_not_measured"
    with pytest.raises(RewardError, match="nothing committed was measured") as caught:
        pay(replace(running, committed_contributions=None), CONFIGS[mode])
    assert caught.value.reason == "drip_measurements_absent"


@settings(max_examples=60)
@given(inputs=steps(), scale=points(0, 0.2), contribution=points(-15, 15))
def test_drips_add_up(inputs, scale, contribution):
    more = replace(
        inputs,
        drips=(*inputs.drips, Drip("r9c9", "s-late", 1.0, scale)),
        committed_contributions={**inputs.committed_contributions, "s-late": contribution},
    )
    gained = pay(more, PLUS).total - pay(inputs, PLUS).total
    assert gained == pytest.approx(min(0.1, max(-0.05, scale * contribution)), abs=1e-9)
