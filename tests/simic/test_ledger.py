"""Ledger: totals, refusal of invalid entries, and credit at the causal step."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.leyline.records import LedgerEntry
from esper_ray.simic.ledger import Ledger


def entry(amount, step=0, cause=None, source="rent", slot=None):
    return LedgerEntry(source, amount, step, step if cause is None else cause, slot)


amounts = st.floats(-100, 100, allow_nan=False)
entries = st.lists(
    st.integers(0, 9).flatmap(
        lambda step: st.builds(
            entry, amounts, st.just(step), st.integers(0, step), st.sampled_from(["rent", "shaping", "terminal"])
        )
    ),
    max_size=12,
)


def test_booking_returns_the_sum_of_its_entries():
    ledger = Ledger()
    assert ledger.book([entry(0.5), entry(-2.0)]) == -1.5
    assert ledger.book([entry(0.25, step=1)]) == 0.25
    assert ledger.total() == -1.25


def test_entries_keep_the_order_in_which_they_were_booked():
    first, second, third = entry(1.0), entry(2.0, step=1), entry(3.0, step=1)
    ledger = Ledger()
    ledger.book([first])
    ledger.book(iter([second, third]))
    assert ledger.entries == (first, second, third)


def test_an_empty_booking_is_a_floating_point_zero():
    """A reward is a float on every step, also without entries (sparse mode before the end)."""
    ledger = Ledger()
    assert isinstance(ledger.book([]), float)
    assert isinstance(ledger.total(), float)


def test_by_cause_sums_at_the_causal_step_not_at_the_booking_step():
    ledger = Ledger()
    ledger.book([entry(1.0, step=0), entry(-10.0, step=3, cause=1), entry(0.5, step=3), entry(0.25, step=1)])
    assert ledger.by_cause(5).tolist() == [1.0, -9.75, 0.0, 0.5, 0.0]


def test_by_source_sums_each_source_separately():
    ledger = Ledger()
    ledger.book([entry(1.0), entry(-0.5, source="shaping"), entry(0.25)])
    assert ledger.by_source() == {"rent": 1.25, "shaping": -0.5}


@settings(max_examples=40)
@given(batches=st.lists(entries, max_size=4))
def test_every_view_of_a_ledger_has_the_same_total(batches):
    ledger = Ledger()
    returned = sum(ledger.book(batch) for batch in batches)
    naive = math.fsum(e.amount for batch in batches for e in batch)
    assert ledger.total() == pytest.approx(naive, abs=1e-9)
    assert returned == pytest.approx(naive, abs=1e-9)
    assert ledger.by_cause(10).sum() == pytest.approx(naive, abs=1e-9)
    assert sum(ledger.by_source().values()) == pytest.approx(naive, abs=1e-9)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (entry(math.nan, step=4), "'rent' at step 4 has amount nan"),
        (entry(math.inf, step=4), "'rent' at step 4 has amount inf"),
        (entry(-math.inf, step=4), "'rent' at step 4 has amount -inf"),
        (entry(1.0, step=4, cause=5), "'rent' at step 4 cannot be caused by step 5"),
        (entry(1.0, step=4, cause=-1), "'rent' at step 4 cannot be caused by step -1"),
    ],
)
def test_one_bad_entry_refuses_the_whole_booking(bad, message):
    ledger = Ledger()
    ledger.book([entry(1.0)])
    with pytest.raises(ValueError, match=message):
        ledger.book([entry(2.0), bad, entry(3.0)])
    assert ledger.entries == (entry(1.0),)
    assert ledger.total() == 1.0


def test_entries_cannot_be_changed_from_outside():
    ledger = Ledger()
    ledger.book([entry(1.0)])
    assert isinstance(ledger.entries, tuple)
    ledger.by_source()["rent"] = 5.0
    assert ledger.total() == 1.0


PAID = [
    entry(1.0, step=0, slot="r0c0", source="shaping"),
    entry(-0.25, step=1, source="rent"),
    entry(2.0, step=3, cause=1, slot="r0c0", source="drip"),
    entry(4.0, step=3, slot="r0c1", source="shaping"),
]


def test_components_of_a_step_a_slot_and_an_episode_are_queries():
    ledger = Ledger(PAID)
    assert ledger.of_step(3).entries == tuple(PAID[2:])
    assert ledger.caused_by(1).entries == (PAID[1], PAID[2])
    assert ledger.of_slot("r0c0").total() == 3.0
    assert ledger.of_slot(None).entries == (PAID[1],)
    assert ledger.of_source("shaping").by_slot() == {"r0c0": 1.0, "r0c1": 4.0}
    assert ledger.of_step(3).of_slot("r0c0").by_source() == {"drip": 2.0}
    assert ledger.by_slot() == {"r0c0": 3.0, None: -0.25, "r0c1": 4.0}


@settings(max_examples=40)
@given(entries)
def test_every_decomposition_of_a_ledger_has_the_same_total(booked):
    ledger = Ledger(booked)
    for parts in (
        [ledger.of_step(step) for step in range(10)],
        [ledger.caused_by(step) for step in range(10)],
        [ledger.of_source(source) for source in ledger.by_source()],
        [ledger.of_slot(slot) for slot in ledger.by_slot()],
    ):
        assert sorted(map(id, booked)) == sorted(id(e) for part in parts for e in part.entries)
