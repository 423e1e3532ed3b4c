"""Numbers as text, axes with round ticks, thinned curves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.karn.reports.html.numbers import (
    Axis,
    count_axis,
    counted,
    percent,
    round_step,
    shown,
    thinned,
    tick_form,
    value_axis,
)

FINITE = st.floats(-1e12, 1e12)


@pytest.mark.parametrize(
    ("least", "step"), [(1.0, 1.0), (1.1, 2.0), (2.0, 2.0), (3.0, 5.0), (6.0, 10.0), (0.03, 0.05), (700.0, 1000.0)]
)
def test_a_round_step_is_one_two_or_five_times_a_power_of_ten(least, step):
    assert round_step(least) == pytest.approx(step)


def test_a_value_axis_ends_at_round_numbers():
    axis = value_axis([0.13, 0.87], 200.0, 0.0)
    assert (axis.low, axis.high) == (0.0, 1.0)
    assert axis.ticks == pytest.approx((0.0, 0.2, 0.4, 0.6, 0.8, 1.0))


@given(st.lists(FINITE, min_size=1, max_size=5))
def test_a_value_axis_holds_its_values_and_few_ticks(values):
    axis = value_axis(values, 200.0, 10.0)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low <= min(values) + slack
    assert axis.high >= max(values) - slack
    assert 2 <= len(axis.ticks) <= 8
    assert all(10.0 <= axis.at(value) <= 200.0 for value in values)


@given(st.integers(0, 5), st.integers(0, 10**6))
def test_a_count_axis_has_few_whole_ticks(first, length):
    axis = count_axis(first, first + length, 50.0, 550.0)
    assert 1 <= len(axis.ticks) <= 12
    assert all(tick == int(tick) for tick in axis.ticks)
    assert axis.at(first) >= 50.0


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ((0.0, 0.5, 1.0), ["0.0", "0.5", "1.0"]),
        ((-20.0, -0.0, 20.0), ["-20", "0", "20"]),
        ((0.0, 2000.0), ["0", "2,000"]),
        ((0.0, 1e-7), ["0", "1.0e-07"]),
        ((-200_000.0, 0.0, 3e9), ["-2.0e+05", "0", "3.0e+09"]),
    ],
)
def test_ticks_have_the_same_number_of_digits(ticks, texts):
    form = tick_form(Axis(ticks[0], ticks[-1], 0.0, 1.0, ticks))
    assert [form(tick) for tick in ticks] == texts


def test_what_was_not_measured_is_no_zero():
    assert (shown(None), shown(math.nan), percent(None)) == ("not measured",) * 3
    assert (shown(0.0, ".1f", "s"), percent(0.125)) == ("0.0 s", "12.5 %")


def test_one_thing_is_singular():
    assert (counted(1, "round"), counted(0, "round"), counted(2000, "round")) == ("1 round", "0 rounds", "2,000 rounds")


def test_a_thinned_curve_keeps_the_least_and_the_greatest_of_each_group():
    points = [(float(x), float(-x if x == 17 else x % 3)) for x in range(100)]
    few = thinned(points, 20)
    assert len(few) <= 22
    assert (17.0, -17.0) in few
    assert few == sorted(few)
    assert thinned(points[:20], 20) == points[:20]
