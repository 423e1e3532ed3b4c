"""Commitments of ``basic`` and ``basic_plus``: together they pay the joint worth of the committed seeds."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transition_builders import make_engine, report, table, transition

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.stages import Stage

SLOTS = ("r0c0", "r0c1", "r0c2", "r0c3")
MODES = ("basic", "basic_plus")


def reports(slots, committed, worth, ticks=5):
    """All seeds held or committed, with the contributions that ``worth`` implies."""
    everyone = tuple(slots)
    contributions = [worth[everyone] - worth[tuple(s for s in slots if s != slot)] for slot in slots]
    return tuple(
        report(slot, Stage.FOSSILIZED if slot in committed else Stage.HOLDING, ticks, alpha=1.0, contribution=c, age=20)
        for slot, c in zip(slots, contributions, strict=True)
    )


def commit_all(engine, order, worths, ticks=5, epochs_after=0):
    """Commit the slots in ``order``, at step i with the accuracies ``worths[i]``; the entries of the episode."""
    slots, committed, entries = sorted(order), [], []
    for step, slot in enumerate(order):
        measured, before = table(worths[step]), reports(slots, committed, worths[step], ticks)
        committed.append(slot)
        after = reports(slots, committed, worths[step], ticks)
        commit = {"operation": LifecycleOp.FOSSILIZE, "slot": slots.index(slot)}
        entries += engine.settle(
            transition(step=step, before=before, after=after, known=measured, measured=measured, **commit)
        )
    for step in range(len(order), len(order) + epochs_after):
        entries += engine.settle(transition(step=step, before=after, after=after, known=measured, measured=measured))
    return entries


def subsets(slots):
    return [members for size in range(len(slots) + 1) for members in combinations(slots, size)]


def paid(entries, *sources):
    return sum(entry.amount for entry in entries if entry.source in sources)


@pytest.mark.parametrize("mode", MODES)
def test_two_seeds_that_help_only_together_are_paid_for_their_joint_worth_once(mode):
    """Alone 2 points each, together 45: the first commitment changes 2 points, the second 43, at 0.5 per point."""
    worth = {(): 20.0, ("r0c0",): 22.0, ("r0c1",): 22.0, ("r0c0", "r0c1"): 65.0}
    entries = commit_all(make_engine(mode), ("r0c0", "r0c1"), [worth] * 2)
    commitments = [(entry.slot, entry.amount) for entry in entries if entry.source == "commitment"]
    assert commitments == [("r0c0", pytest.approx(1.0)), ("r0c1", pytest.approx(21.5))]


@st.composite
def coalition_tables(draw):
    """Up to four slots in any order of commitment, and random accuracies of all their subsets."""
    count = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    order = [SLOTS[i] for i in rng.permutation(count)]
    return order, [
        {m: float(x) for m, x in zip(subsets(SLOTS[:count]), row, strict=True)}
        for row in rng.uniform(0, 100, (count, 2**count))
    ]


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=100, deadline=None)
@given(case=coalition_tables())
def test_commitments_pay_the_joint_worth_of_all_committed_seeds_in_any_order(mode, case):
    order, (worth, *_) = case
    entries = commit_all(make_engine(mode), order, [worth] * len(order))
    joint = worth[tuple(sorted(order))] - worth[()]
    assert paid(entries, "commitment") == pytest.approx(0.5 * joint, abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=100, deadline=None)
@given(case=coalition_tables())
def test_each_commitment_pays_the_change_that_was_measured_at_it(mode, case):
    """The accuracies of all coalitions change from commitment to commitment."""
    order, worths = case
    entries = commit_all(make_engine(mode), order, worths)
    for step, slot in enumerate(order):
        before, after = (worths[step][tuple(sorted(order[:n]))] for n in (step, step + 1))
        amount = sum(e.amount for e in entries if e.source == "commitment" and e.step == step and e.slot == slot)
        assert amount == pytest.approx(0.5 * (after - before), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(case=coalition_tables(), ticks=st.integers(0, 5))
def test_early_commitments_never_pay_more_than_the_joint_worth(case, ticks):
    order, (worth, *_) = case
    entries = commit_all(make_engine("basic"), order, [worth] * len(order), ticks)
    assert paid(entries, "commitment") <= 0.5 * (worth[tuple(sorted(order))] - worth[()]) + 1e-9


@settings(max_examples=60, deadline=None)
@given(case=coalition_tables(), epochs=st.integers(0, 36))
def test_later_parts_never_exceed_what_was_withheld(case, epochs):
    order, (worth, *_) = case
    engine = make_engine("basic_plus", max_drip_per_epoch=5.0)
    entries = commit_all(engine, order, [worth] * len(order), epochs_after=epochs)
    for slot in order:
        assert sum(entry.amount for entry in entries if entry.source == "drip" and entry.slot == slot) <= 1e-9
