"""From one step to its entries: what is paid, for which slot, and what is not."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.leyline.actions import AlphaMode, BlendOperator, Blueprint, LifecycleOp
from esper_ray.leyline.config import RewardConfig
from esper_ray.leyline.records import Coalition, Measurement, SeedMeasurements, SlotReport
from esper_ray.leyline.stages import Stage
from esper_ray.simic.accounting import Transition, committed_accuracy, fossil_parameters, settle

GAMMA = 0.995
SLOTS = ("r0c0", "r0c1", "r0c2")
BASIC = RewardConfig(mode="basic", param_budget=2000, param_penalty_weight=0.1)
SPARSE = RewardConfig(mode="sparse", param_budget=2000, param_penalty_weight=0.1, sparse_reward_scale=2.0)
STAGE_POTENTIAL = {"GERMINATED": 1.0, "TRAINING": 2.0, "BLENDING": 3.5, "HOLDING": 5.5, "FOSSILIZED": 6.0}


def potential(report):
    """The table of section 6.4, written down independently."""
    if report is None:
        return 0.0
    return STAGE_POTENTIAL.get(report.stage.name, 0.0) + min(0.3 * report.ticks_in_stage, 2.0)


def report(slot, stage, ticks=0, alpha=0.0, parameters=100, contribution=None):
    return SlotReport(
        slot_id=slot,
        seed_id=f"{slot}-1",
        blueprint=Blueprint.CONV_LIGHT,
        stage=stage,
        previous_stage=Stage.DORMANT,
        ticks_in_stage=ticks,
        age=ticks,
        alpha=alpha,
        alpha_mode=AlphaMode.HOLD,
        alpha_target=1.0,
        alpha_velocity=0.0,
        ramp_total=0,
        ramp_done=0,
        operator=BlendOperator.ADD,
        tempo=5,
        parameters=parameters,
        measured=SeedMeasurements(contribution_pp=contribution),
    )


EMPTY = (None, None, None)


def plain(accuracy):
    return Measurement(1.0, accuracy, 400)


def solo(slot, without, full):
    table = (Coalition(frozenset(), without), Coalition(frozenset({slot}), full))
    return Measurement(1.0, full, 400, (slot,), table)


def transition(**changes):
    base = Transition(
        step=7,
        operation=LifecycleOp.WAIT,
        slot=0,
        success=True,
        before=EMPTY,
        after=EMPTY,
        known=plain(40.0),
        measured=plain(50.0),
        first_accuracy_pp=20.0,
        host_parameters=160,
        truncated=False,
        terminated=False,
    )
    return replace(base, **changes)


def amounts(entries):
    return {(entry.source, entry.slot): entry.amount for entry in entries}


def test_nothing_is_paid_for_an_empty_network_that_goes_on():
    assert settle(transition(), BASIC, GAMMA) == ()


def test_shaping_covers_every_slot_whichever_slot_the_action_named():
    before = (report("r0c0", Stage.TRAINING, 2), None, report("r0c2", Stage.GERMINATED, 1))
    after = (report("r0c0", Stage.TRAINING, 3), None, report("r0c2", Stage.TRAINING, 1))
    paid = amounts(settle(transition(slot=1, before=before, after=after), BASIC, GAMMA))
    # potentials 2.6 -> 2.9 and 1.3 -> 2.3
    assert paid == pytest.approx(
        {("shaping", "r0c0"): 0.3 * (0.995 * 2.9 - 2.6), ("shaping", "r0c2"): 0.3 * (0.995 * 2.3 - 1.3)}
    )


def test_shaping_takes_the_potential_back_when_a_slot_empties():
    before = (None, report("r0c1", Stage.RESETTING, 1), None)
    paid = amounts(settle(transition(before=before), BASIC, GAMMA))
    assert paid == pytest.approx({("shaping", "r0c1"): -0.3 * 0.3})


def test_termination_ends_at_potential_zero_and_pays_no_terminal_term():
    held = (report("r0c0", Stage.HOLDING, 3, alpha=1.0), None, None)
    settled = settle(
        transition(before=held, after=(report("r0c0", Stage.BLENDING), *EMPTY[1:]), terminated=True), BASIC, GAMMA
    )
    assert amounts(settled)[("shaping", "r0c0")] == pytest.approx(-0.3 * 6.4)
    assert {entry.source for entry in settled} == {"shaping", "rent"}


def test_rent_prices_amplified_seeds_by_amplitude_and_a_base_for_the_slot():
    after = (
        report("r0c0", Stage.BLENDING, 0, alpha=0.5, parameters=100),
        report("r0c1", Stage.TRAINING, 0, alpha=0.0, parameters=1000),
        report("r0c2", Stage.FOSSILIZED, 0, alpha=1.0, parameters=30),
    )
    # 2 * 0.0039 * 160 + 50 + 30 = 81.248 parameters at 0.1 / 2000
    paid = amounts(settle(transition(before=after, after=after), BASIC, GAMMA))
    assert paid[("rent", None)] == pytest.approx(-0.0040624, abs=1e-12)


HOLDING = (None, report("r0c1", Stage.HOLDING, 5, alpha=1.0, contribution=4.0), None)
FOSSIL = (None, report("r0c1", Stage.FOSSILIZED, 1, alpha=1.0, contribution=-9.0), None)
COMMIT = {
    "operation": LifecycleOp.FOSSILIZE,
    "slot": 1,
    "before": HOLDING,
    "after": FOSSIL,
    "known": solo("r0c1", 35.0, 40.0),
    "measured": solo("r0c1", 60.0, 50.0),
}


def test_a_fossilisation_is_paid_on_what_was_known_when_it_was_decided():
    paid = amounts(settle(transition(**COMMIT), BASIC, GAMMA))
    assert paid[("fossilise", "r0c1")] == pytest.approx(0.3 + 0.5 * 40.0 / 9.0)


def test_a_refused_fossilisation_is_not_paid():
    settled = settle(transition(**COMMIT | {"success": False, "after": HOLDING}), BASIC, GAMMA)
    assert "fossilise" not in {entry.source for entry in settled}


@pytest.mark.parametrize("operation", [op for op in LifecycleOp if op is not LifecycleOp.FOSSILIZE])
def test_no_other_operation_gets_the_fossilise_pay(operation):
    settled = settle(transition(**COMMIT | {"operation": operation}), BASIC, GAMMA)
    assert "fossilise" not in {entry.source for entry in settled}


def test_the_end_of_an_episode_pays_the_gain_since_its_beginning():
    settled = settle(transition(truncated=True), BASIC, GAMMA)
    assert amounts(settled) == pytest.approx({("terminal", None): 5.0 * 30.0 / 100.0})


def test_sparse_pays_nothing_before_the_end():
    assert settle(transition(**COMMIT), SPARSE, GAMMA) == ()
    assert settle(transition(**COMMIT | {"terminated": True}), SPARSE, GAMMA) == ()


def test_sparse_pays_committed_accuracy_minus_the_price_of_committed_parameters():
    """A blending seed that carries ten points is not committed: accuracy without it counts."""
    after = (report("r0c0", Stage.BLENDING, 2, alpha=0.7), report("r0c1", Stage.FOSSILIZED, 4, parameters=200), None)
    names = ("r0c0", "r0c1")
    worth = {(): 30.0, ("r0c0",): 41.0, ("r0c1",): 55.0, names: 65.0}
    table = tuple(Coalition(frozenset(members), value) for members, value in worth.items())
    measured = Measurement(1.0, 65.0, 400, names, table)
    settled = settle(transition(after=after, before=after, measured=measured, truncated=True), SPARSE, GAMMA)
    assert amounts(settled) == pytest.approx({("terminal", None): 2.0 * (0.55 - 0.1 * 200 / 2000)})
    assert committed_accuracy(after, measured) == 55.0
    assert fossil_parameters(after) == 200


def test_committed_accuracy_without_fossils_switches_every_seed_off():
    after = (None, report("r0c1", Stage.HOLDING, 1, alpha=1.0), None)
    assert committed_accuracy(after, solo("r0c1", 33.0, 44.0)) == 33.0
    assert committed_accuracy(EMPTY, plain(21.0)) == 21.0


def test_every_entry_names_its_step_its_cause_and_its_slot():
    settled = settle(transition(**COMMIT | {"truncated": True}), BASIC, GAMMA)
    assert {entry.source for entry in settled} == {"shaping", "rent", "fossilise", "terminal"}
    for entry in settled:
        assert (entry.step, entry.cause_step) == (7, 7)
        assert entry.slot == ("r0c1" if entry.source in ("shaping", "fossilise") else None)
        assert entry.explanation


some_report = st.one_of(
    st.none(),
    st.tuples(st.sampled_from([s for s in Stage if s not in (Stage.UNKNOWN, Stage.DORMANT)]), st.integers(0, 12)),
)
some_state = st.tuples(some_report, some_report, some_report)


@settings(max_examples=40)
@given(path=st.lists(some_state, min_size=2, max_size=12), gamma=st.floats(0.8, 1.0), ends=st.booleans())
def test_shaping_telescopes_over_any_trajectory_of_reports(path, gamma, ends):
    states = [
        tuple(None if made is None else report(slot, *made) for slot, made in zip(SLOTS, state, strict=True))
        for state in path
    ]
    steps = len(states) - 1
    total = 0.0
    for t in range(steps):
        step = transition(step=t, before=states[t], after=states[t + 1], terminated=ends and t == steps - 1)
        entries = settle(step, BASIC, gamma)
        total += gamma**t * sum(entry.amount for entry in entries if entry.source == "shaping")
    last = 0.0 if ends else sum(map(potential, states[-1]))
    assert total == pytest.approx(0.3 * (gamma**steps * last - sum(map(potential, states[0]))), abs=1e-9)
