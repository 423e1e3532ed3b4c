"""Slot ids: format, order and validation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.leyline.slots import SlotIdError, format_slot_id, ordered_slot_ids, parse_slot_id

numbers = st.integers(min_value=0, max_value=10**6)


@pytest.mark.parametrize(("slot_id", "place"), [("r0c0", (0, 0)), ("r0c1", (0, 1)), ("r12c345", (12, 345))])
def test_a_slot_id_is_row_and_column(slot_id, place):
    assert parse_slot_id(slot_id) == place


@pytest.mark.parametrize(
    "slot_id",
    [
        "",
        "early",
        "mid",
        "late",
        "r0",
        "c0",
        "r0c",
        "rc0",
        "r-1c0",
        "r0c-1",
        "R0C0",
        "r0C1",
        " r0c0",
        "r0c0 ",
        "r0c0\n",
        "r00c0",
        "r0c01",
        "r0c1x",
        "xr0c1",
        "r0.0c1",
        "r+1c0",
        "r1_0c0",
        "r\u0663c1",
        "r\u00b2c1",
        "r0c1r0c1",
    ],
)
def test_an_invalid_slot_id_is_refused_with_value_and_form(slot_id):
    with pytest.raises(SlotIdError, match="r<row>c<column>") as caught:
        parse_slot_id(slot_id)
    assert repr(slot_id) in str(caught.value)


@given(numbers, numbers)
def test_format_and_parse_are_inverse(row, column):
    assert parse_slot_id(format_slot_id(row, column)) == (row, column)


@pytest.mark.parametrize(("row", "column"), [(-1, 0), (0, -1), (-3, -4)])
def test_negative_rows_and_columns_have_no_id(row, column):
    with pytest.raises(SlotIdError, match=f"row {row} and column {column}"):
        format_slot_id(row, column)


def test_order_is_row_major_and_numeric_not_alphabetic():
    assert ordered_slot_ids(["r1c0", "r0c10", "r10c0", "r0c2", "r0c0"]) == ("r0c0", "r0c2", "r0c10", "r1c0", "r10c0")


@given(st.sets(st.tuples(numbers, numbers), min_size=1, max_size=8).flatmap(lambda s: st.permutations(sorted(s))))
def test_order_does_not_depend_on_the_input_order(places):
    ids = [format_slot_id(*place) for place in places]
    assert [parse_slot_id(slot) for slot in ordered_slot_ids(ids)] == sorted(places)


def test_an_empty_list_of_slots_is_refused():
    with pytest.raises(SlotIdError, match="at least one slot"):
        ordered_slot_ids([])


def test_a_slot_listed_twice_is_refused_by_name():
    with pytest.raises(SlotIdError, match="'r0c1' is listed twice"):
        ordered_slot_ids(["r0c1", "r0c0", "r0c1"])


def test_a_bad_id_in_a_list_is_refused_by_name():
    with pytest.raises(SlotIdError, match="'mid'"):
        ordered_slot_ids(["r0c1", "mid"])
