"""``basic``, ``basic_plus``, ``simplified``, ``sparse``, ``minimal`` and the family ``loss`` over live episodes."""

import math
from dataclasses import replace

import pytest
from transition_builders import EMPTY, amounts, make_engine, plain, report, settled, solo, sources, table, transition

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.stages import Stage

HELD = (None, report("r0c1", Stage.HOLDING, 5, alpha=1.0, contribution=4.0), None)
FOSSIL = (None, report("r0c1", Stage.FOSSILIZED, 1, alpha=1.0, contribution=-9.0), None)
COMMIT = transition(
    operation=LifecycleOp.FOSSILIZE,
    slot=1,
    before=HELD,
    after=FOSSIL,
    known=solo("r0c1", 35.0, 40.0),
    measured=solo("r0c1", 60.0, 50.0),
)
CHANGE, FIXED = 0.5 * 5.0, 0.3
FULL = CHANGE + FIXED


def test_basic_pays_a_commitment_by_the_measurement_before_the_decision():
    paid = amounts(settled("basic", COMMIT))
    assert paid[("commitment", "r0c1")] == pytest.approx(CHANGE)
    assert paid[("operation", "r0c1")] == pytest.approx(FIXED)


def test_basic_pays_by_the_end_of_the_step_if_the_decision_was_unmeasured():
    paid = amounts(settled("basic", replace(COMMIT, known=plain(40.0))))
    assert paid[("commitment", "r0c1")] == pytest.approx(0.5 * -10.0)


def test_an_unmeasured_change_of_committed_accuracy_is_paid_nothing():
    paid = amounts(settled("basic", replace(COMMIT, known=plain(40.0), measured=plain(40.0))))
    assert ("commitment", "r0c1") not in paid
    assert paid[("operation", "r0c1")] == pytest.approx(-0.5)


@pytest.mark.parametrize(("after", "share"), [(45.0, 0.4), (25.0, 1.0)])
def test_an_early_commitment_is_paid_a_share_of_a_gain_and_charged_a_whole_loss(after, share):
    """Two of five required epochs held."""
    early = (None, report("r0c1", Stage.HOLDING, 2, alpha=1.0, contribution=4.0), None)
    paid = amounts(settled("basic", replace(COMMIT, before=early, known=solo("r0c1", 35.0, after))))
    assert paid[("commitment", "r0c1")] == pytest.approx(0.5 * (after - 35.0) * share)


@pytest.mark.parametrize("operation", [op for op in LifecycleOp if op is not LifecycleOp.FOSSILIZE])
def test_no_other_operation_has_a_commitment_entry(operation):
    assert "commitment" not in sources(settled("basic", replace(COMMIT, operation=operation)))


def test_basic_rent_is_linear():
    after = (
        report("r0c0", Stage.BLENDING, 0, alpha=0.5, parameters=100),
        report("r0c1", Stage.TRAINING, 0, alpha=0.0, parameters=1000),
        report("r0c2", Stage.FOSSILIZED, 0, alpha=1.0, parameters=30),
    )
    # 2 * 0.0039 * 160 + 50 + 30 = 81.248 parameters at 0.1 / 2000
    paid = amounts(settled("basic", transition(before=after, after=after)))
    assert paid[("rent", None)] == pytest.approx(-0.0040624, abs=1e-12)


def test_basic_pays_the_accuracy_gain_of_the_episode_at_its_end():
    assert amounts(settled("basic", transition(truncated=True))) == pytest.approx(
        {("terminal", None): 5.0 * 30.0 / 100.0}
    )
    assert "terminal" not in sources(settled("basic", transition(restored_because_of=0)))


def test_basic_plus_pays_a_part_at_once_and_drips_the_rest_by_contribution():
    """P42: the immediate pay and the pool add up to the full bonus."""
    engine = make_engine("basic_plus", disable_pbrs=True)
    paid = amounts(engine.settle(replace(COMMIT, step=9)))
    assert paid[("commitment", "r0c1")] + paid[("operation", "r0c1")] == pytest.approx(FULL)
    assert paid[("drip", "r0c1")] == pytest.approx(-0.7 * FULL)
    later = (None, report("r0c1", Stage.FOSSILIZED, 2, alpha=1.0, contribution=1.5), None)
    (drip,) = [e for e in engine.settle(transition(step=10, before=FOSSIL, after=later)) if e.source == "drip"]
    assert drip.amount == pytest.approx(0.7 * FULL / 30 * 1.5)
    assert (drip.slot, drip.step, drip.cause_step) == ("r0c1", 10, 9)


@pytest.mark.parametrize(("contribution", "amount"), [(900.0, 0.1), (-900.0, -0.05)])
def test_a_drip_is_clipped_on_both_sides(contribution, amount):
    engine = make_engine("basic_plus", disable_pbrs=True)
    engine.settle(COMMIT)
    later = (None, report("r0c1", Stage.FOSSILIZED, 2, alpha=1.0, contribution=contribution), None)
    paid = amounts(engine.settle(transition(step=1, before=FOSSIL, after=later)))
    assert paid[("drip", "r0c1")] == pytest.approx(amount)


def test_drips_add_up_to_no_more_than_was_withheld():
    engine = make_engine("basic_plus", disable_pbrs=True, max_drip_per_epoch=1.0)
    engine.settle(COMMIT)
    drips = []
    for step, contribution in enumerate((9.0, -3.0, *[9.0] * 30), start=1):
        later = (None, report("r0c1", Stage.FOSSILIZED, step, alpha=1.0, contribution=contribution), None)
        entries = engine.settle(transition(step=step, before=FOSSIL, after=later))
        drips += [entry.amount for entry in entries if entry.source == "drip"]
    assert drips[0] > 0 > drips[1]
    assert sum(drips) == pytest.approx(0.7 * FULL)


def test_an_unmeasured_fossil_has_no_drip():
    """P43 in live episodes: a missing measurement is neither zero nor an error that ends a run."""
    engine = make_engine("basic_plus", disable_pbrs=True)
    engine.settle(COMMIT)
    unknown = (None, report("r0c1", Stage.FOSSILIZED, 2, alpha=1.0), None)
    assert "drip" not in sources(engine.settle(transition(step=1, before=FOSSIL, after=unknown)))


def test_a_commitment_below_the_contribution_threshold_starts_no_drip():
    engine = make_engine("basic_plus", disable_pbrs=True)
    weak = (None, report("r0c1", Stage.HOLDING, 5, alpha=1.0, contribution=0.5), None)
    paid = amounts(engine.settle(replace(COMMIT, before=weak)))
    assert paid[("operation", "r0c1")] == pytest.approx(-0.2)
    assert ("drip", "r0c1") not in paid


def test_basic_plus_with_a_drip_fraction_of_zero_equals_basic():
    assert settled("basic_plus", COMMIT, drip_fraction=0.0) == settled("basic", COMMIT)


def test_simplified_counts_contributing_fossils_at_the_end():
    after = (
        report("r0c0", Stage.FOSSILIZED, 9, alpha=1.0, contribution=1.0),
        report("r0c1", Stage.FOSSILIZED, 9, alpha=1.0, contribution=0.9),
        report("r0c2", Stage.FOSSILIZED, 9, alpha=1.0),
    )
    paid = amounts(settled("simplified", transition(before=after, after=after, truncated=True), disable_pbrs=True))
    assert paid == pytest.approx({("terminal", None): 3 * 0.5 + 2 * 1})


@pytest.mark.parametrize("operation", list(LifecycleOp))
def test_simplified_charges_every_operation_except_wait_and_fossilize(operation):
    paid = amounts(settled("simplified", replace(COMMIT, operation=operation), disable_pbrs=True))
    free = operation in (LifecycleOp.WAIT, LifecycleOp.FOSSILIZE)
    assert paid == ({} if free else {("operation", "r0c1"): -0.01})


@pytest.mark.parametrize("mode", ["sparse", "minimal"])
def test_sparse_pays_nothing_before_the_end(mode):
    """P44."""
    assert settled(mode, COMMIT) == ()
    assert sources(settled(mode, replace(COMMIT, restored_because_of=0))) == {"rollback"}


@pytest.mark.parametrize("mode", ["sparse", "minimal"])
def test_sparse_pays_committed_accuracy_minus_the_price_of_committed_parameters(mode):
    """A blending seed that carries ten points is not committed: accuracy without it counts."""
    after = (report("r0c0", Stage.BLENDING, 2, alpha=0.7), report("r0c1", Stage.FOSSILIZED, 4, parameters=200), None)
    measured = table({(): 30.0, ("r0c0",): 41.0, ("r0c1",): 55.0, ("r0c0", "r0c1"): 65.0})
    step = transition(after=after, before=after, measured=measured, truncated=True)
    paid = amounts(settled(mode, step, sparse_reward_scale=2.0))
    assert paid == pytest.approx({("terminal", None): 2.0 * (0.55 - 0.1 * 200 / 2000)})


@pytest.mark.parametrize(("age", "paid"), [(4, {("prune", "r0c0"): -0.1}), (5, {})])
def test_minimal_penalises_early_prunes_only(age, paid):
    """P45."""
    seeds = (report("r0c0", Stage.TRAINING, 3, age=age), *EMPTY[1:])
    step = transition(operation=LifecycleOp.PRUNE, before=seeds, after=EMPTY)
    assert amounts(settled("minimal", step)) == paid
    assert settled("minimal", replace(step, success=False)) == ()


@pytest.mark.parametrize(
    ("before", "after", "amount"), [(1.0, 0.95, 2.5), (1.0, 1.05, -1.25), (9.0, 1.0, 25.0), (1.0, 9.0, -12.5)]
)
def test_a_decrease_of_the_loss_is_paid_and_an_increase_charged(before, after, amount):
    """P58: the sign in live episodes, not only in the formula."""
    step = transition(known=plain(40.0, before), measured=plain(40.0, after))
    assert amounts(settled("shaped", step, family="loss")) == pytest.approx({("loss", None): amount})


def test_the_loss_family_charges_rent_after_the_grace_and_pays_the_final_loss():
    after = (report("r0c0", Stage.TRAINING, 2, parameters=40, age=3), report("r0c1", Stage.TRAINING, 2, age=2), None)
    step = transition(before=after, after=after, known=plain(40.0), measured=plain(40.0), truncated=True)
    paid = amounts(settled("shaped", step, family="loss", disable_pbrs=True))
    expected = {("rent", None): -0.05 * math.log(1.25), ("terminal", None): (2.3 - 1.0) / 2.0}
    assert paid == pytest.approx(expected)


def test_a_rollback_does_not_count_as_a_decrease_of_the_loss():
    step = transition(known=plain(10.0, 9.0), measured=plain(40.0, 1.0), restored_because_of=0)
    assert sources(settled("shaped", step, family="loss")) == {"rollback"}


def test_an_unmeasured_fossil_does_not_count_at_a_threshold_of_zero():
    after = (report("r0c0", Stage.FOSSILIZED, 9, alpha=1.0), None, None)
    step = transition(before=after, after=after, truncated=True)
    paid = amounts(settled("simplified", step, disable_pbrs=True, min_fossilize_contribution=0.0))
    assert paid == pytest.approx({("terminal", None): 3 * 0.5})
