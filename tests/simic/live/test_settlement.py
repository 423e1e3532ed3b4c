"""``settlement``: reward for committed value minus price and minus the no-growth control."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transition_builders import EMPTY, amounts, discounted, make_engine, plain, report, sources, table, transition

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.stages import Stage
from esper_ray.simic.ledger import RewardError

SLOTS = ("r0c0", "r0c1")


def fossil(slot, ticks=1, parameters=100):
    return report(slot, Stage.FOSSILIZED, ticks, alpha=1.0, parameters=parameters)


def test_progress_equal_to_the_control_is_not_paid():
    engine = make_engine("settlement", first=20.0, control=(20.0, 35.0, 50.0))
    assert engine.settle(transition(measured=plain(35.0))) == ()
    assert engine.settle(transition(step=1, known=plain(35.0), measured=plain(50.0), truncated=True)) == ()


def test_a_host_below_its_control_is_charged_the_difference():
    """After the prune the host is 4 points below the no-growth control: 10 * 0.04."""
    engine = make_engine("settlement", first=20.0, control=(20.0, 50.0))
    assert amounts(engine.settle(transition(measured=plain(46.0)))) == pytest.approx({("host", None): -0.4})


def test_a_held_seed_without_commitment_is_not_paid():
    held = (report("r0c0", Stage.HOLDING, 9, alpha=1.0, contribution=40.0), *EMPTY[1:])
    engine = make_engine("settlement", first=20.0, control=(20.0, 50.0))
    measured = table({(): 45.0, ("r0c0",): 85.0})
    paid = amounts(engine.settle(transition(before=held, after=held, measured=measured)))
    assert paid == pytest.approx({("host", None): -0.5})


def test_a_commitment_vests_in_equal_parts_caused_by_its_step():
    """Value: 10 * (0.30 - 0.1 * 200 / 2000) = 2.9, a fifth of it each epoch."""
    engine = make_engine("settlement", first=20.0, control=(20.0,) * 9)
    measured = table({(): 20.0, ("r0c0",): 50.0})
    parts = []
    for step in range(7):
        operation = LifecycleOp.FOSSILIZE if step == 0 else LifecycleOp.WAIT
        after = (fossil("r0c0", step + 1, parameters=200), *EMPTY[1:])
        entries = engine.settle(transition(step=step, operation=operation, after=after, measured=measured))
        assert all((e.source, e.slot, e.cause_step) == ("vesting", "r0c0", 0) for e in entries)
        parts.append(sum(e.amount for e in entries))
    assert parts == pytest.approx([0.58] * 5 + [0.0, 0.0])


def test_a_revaluation_is_caused_by_the_step_that_changed_the_value():
    engine = make_engine("settlement", first=20.0, control=(20.0,) * 9, settlement={"vesting_epochs": 1})
    first, both = (fossil("r0c0"), None, None), (fossil("r0c0"), fossil("r0c1"), None)
    engine.settle(transition(operation=LifecycleOp.FOSSILIZE, after=first, measured=table({(): 20.0, ("r0c0",): 50.0})))
    # a second seed that does the same as the first: 50 with either, 52 with both
    redundant = table({(): 20.0, ("r0c0",): 50.0, ("r0c1",): 50.0, SLOTS: 52.0})
    step = transition(step=1, operation=LifecycleOp.FOSSILIZE, slot=1, before=first, after=both, measured=redundant)
    entries = {(e.source, e.slot): e for e in engine.settle(step)}
    # Shapley values are 16 each; the first was paid 30 - price
    assert entries["revaluation", "r0c0"].amount == pytest.approx(10 * -0.14)
    assert entries["vesting", "r0c1"].amount == pytest.approx(10 * (0.16 - 0.005))
    assert {entry.cause_step for entry in entries.values()} == {1}


def test_the_value_is_computed_over_committed_seeds_only():
    """A live seed beside a fossil changes the network's output, not the pay for the fossil."""
    after = (fossil("r0c0"), report("r0c1", Stage.BLENDING, 3, alpha=0.7, contribution=30.0), None)
    measured = table({(): 20.0, ("r0c0",): 50.0, ("r0c1",): 45.0, SLOTS: 80.0})
    engine = make_engine("settlement", first=20.0, control=(20.0, 20.0), settlement={"vesting_epochs": 1})
    step = transition(operation=LifecycleOp.FOSSILIZE, after=after, measured=measured)
    assert amounts(engine.settle(step)) == pytest.approx({("vesting", "r0c0"): 10 * (0.3 - 0.005)})


@settings(max_examples=60, deadline=None)
@given(
    path=st.lists(st.tuples(*[st.floats(0, 100)] * 4, st.floats(0, 100)), min_size=2, max_size=10),
    second=st.integers(0, 9),
    vesting=st.integers(1, 6),
)
def test_an_episode_sums_to_the_vested_value_at_its_end(path, second, vesting):
    """On any path: committed value minus control, in proportion to vesting."""
    control = (20.0, *(row[4] for row in path))
    engine = make_engine("settlement", first=20.0, control=control, settlement={"vesting_epochs": vesting})
    for step, (none, first, second_alone, both, _) in enumerate(path):
        after = (fossil("r0c0"), fossil("r0c1") if step >= second else None, None)
        worth = {(): none, ("r0c0",): first}
        if step >= second:
            worth = {(): none, ("r0c0",): first, ("r0c1",): second_alone, SLOTS: both}
        engine.settle(transition(step=step, after=after, measured=table(worth), truncated=step == len(path) - 1))
    none, first, second_alone, both, control_end = path[-1]
    last = len(path) - 1
    shares = [min(1.0, (last + 1) / vesting), min(1.0, (last - second + 1) / vesting)]
    values = [(first - none) / 100, 0.0]
    if last >= second:
        values = [(first - none + both - second_alone) / 200, (second_alone - none + both - first) / 200]
    expected = 10 * (none - control_end) / 100 + sum(
        10 * share * (value - 0.1 * 100 / 2000)
        for share, value, committed in zip(shares, values, (True, last >= second), strict=True)
        if committed
    )
    assert engine.ledger.total() == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(early=st.integers(0, 28), delay=st.integers(1, 28), gain=st.floats(1.0, 80.0), vesting=st.integers(1, 12))
def test_delaying_a_good_commitment_never_increases_the_return(early, delay, gain, vesting):
    """P59 for this mode, also undiscounted."""

    def ledger_of_commitment(commit):
        engine = make_engine("settlement", first=20.0, control=(20.0,) * 31, settlement={"vesting_epochs": vesting})
        measured = table({(): 20.0, ("r0c0",): 20.0 + gain})
        for step in range(30):
            after = (fossil("r0c0") if step >= commit else report("r0c0", Stage.HOLDING, 6, alpha=1.0), None, None)
            engine.settle(transition(step=step, after=after, measured=measured, truncated=step == 29))
        return engine.ledger

    late, soon = ledger_of_commitment(early + delay), ledger_of_commitment(early)
    assert late.total() <= soon.total() + 1e-9
    assert discounted(late, 30) <= discounted(soon, 30) + 1e-9


def test_a_step_with_missing_coalitions_is_settled_at_the_next_full_one():
    engine = make_engine("settlement", first=20.0, control=(20.0,) * 4, settlement={"vesting_epochs": 2})
    after = (fossil("r0c0"), None, None)
    full = table({(): 20.0, ("r0c0",): 50.0})
    few = replace(full, coalitions=full.coalitions[-1:])
    assert engine.settle(transition(after=after, measured=few)) == ()
    paid = amounts(engine.settle(transition(step=1, before=after, after=after, measured=full)))
    assert paid == pytest.approx({("vesting", "r0c0"): 2.95})


def test_a_rolled_back_commitment_is_written_off():
    engine = make_engine("settlement", first=20.0, control=(20.0,) * 4, settlement={"vesting_epochs": 1})
    after = (fossil("r0c0"), None, None)
    engine.settle(transition(after=after, measured=table({(): 20.0, ("r0c0",): 50.0})))
    for restored in (EMPTY, (report("r0c0", Stage.HOLDING, 3, alpha=1.0), None, None)):
        resumed = make_engine("settlement", first=20.0, control=(20.0,) * 4)
        resumed.resume(engine.saved())
        step = transition(step=1, before=after, after=restored, restored_because_of=0, measured=plain(20.0))
        few = replace(step, measured=replace(table({(): 20.0, ("r0c0",): 50.0}), coalitions=()))
        for settled_step in (step, few):  # with and without measured coalitions
            resumed.resume(engine.saved())
            entries = resumed.settle(settled_step)
            assert amounts(entries)[("revaluation", "r0c0")] == pytest.approx(-2.95)
            assert sources(entries) == {"revaluation", "rollback"}


def test_values_are_averaged_over_the_window():
    """Shapley values 30, 0, 60, 30 and gaps 0, 2, 4, 6 with a window of three."""
    options = {"vesting_epochs": 1, "window_epochs": 3}
    engine = make_engine("settlement", first=20.0, control=(20.0,) * 5, settlement=options)
    after = (fossil("r0c0"), None, None)
    totals = []
    for step, (host, gain) in enumerate([(20.0, 30.0), (22.0, 0.0), (24.0, 60.0), (26.0, 30.0)]):
        engine.settle(transition(step=step, after=after, measured=table({(): host, ("r0c0",): host + gain})))
        totals.append(engine.ledger.total())
    means = [(30, 0), (15, 1), (30, 2), (30, 4)]
    assert totals == pytest.approx([10 * ((value + gap) / 100 - 0.005) for value, gap in means])


def test_a_missing_control_value_is_refused():
    with pytest.raises(RewardError, match="needs the accuracy without growth after epoch 1; 1 values are known"):
        make_engine("settlement", control=(20.0,)).settle(transition())
