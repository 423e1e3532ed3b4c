"""Pieces of lines."""

import pytest

from esper_ray.karn.sanctum.text import (
    Ink,
    between,
    duration,
    fitted,
    line,
    number,
    plain,
    printable,
    rule,
    sparkline,
    window,
    wrapped,
)


@pytest.mark.parametrize(
    ("text", "width", "shown"), [("abc", 5, "abc  "), ("abc", 3, "abc"), ("abcdef", 4, "abc…"), ("ab", 0, "")]
)
def test_a_line_fills_its_width_exactly(text, width, shown):
    assert plain(fitted(line(text), width)) == shown


def test_what_is_cut_keeps_the_styles_before_it():
    assert fitted(line(Ink("ab", "ok"), Ink("cdef", "look")), 4) == (
        Ink("ab", "ok"),
        Ink("c", "look"),
        Ink("…", "dim"),
    )


def test_the_right_end_is_whole_and_the_left_one_is_cut():
    assert plain(between(line("a long name"), line("12 s"), 10)) == "a lo… 12 s"


def test_a_rule_ends_in_its_title():
    assert plain(rule("notable", 12)) == "---- notable"


def test_bars_lie_between_least_and_greatest_value_and_skip_the_unmeasured():
    assert sparkline([0.0, None, 1.0, 0.5], 10) == "▁ █▅"
    assert sparkline([1.0, 1.0], 10) == "▄▄"
    assert sparkline([None], 10) == ""
    assert sparkline([0, 1, 2, 3], 2) == "▁█"


def test_numbers_that_were_not_measured_are_a_dash():
    assert (number(None), number(float("nan"), ".1f"), number(1.25, "+.1f")) == ("-", "-", "+1.2")


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.9, "2 s"), (61, "1 min 01 s"), (3725, "1 h 02 min"), (90000, "1 d 1 h")]
)
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


def test_a_window_moves_no_further_than_its_cursor_needs():
    assert [window(20, 5, cursor, 3) for cursor in (0, 3, 7, 8, 19)] == [0, 3, 3, 4, 15]
    assert window(3, 5, 2, 9) == 0


def test_text_is_wrapped_at_spaces():
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("", 7) == []


def test_control_characters_never_reach_the_terminal():
    assert printable("a\x1b[2Jb\n") == "a?[2Jb?"
