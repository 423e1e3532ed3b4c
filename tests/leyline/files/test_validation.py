"""Strict validation of JSON trees: exact types, one line."""

import math
from dataclasses import dataclass

import pytest
from damage_builders import STRANGE

from esper_ray.leyline.files.validation import SavedRecord, validated
from esper_ray.leyline.stages import Stage


class Inner(SavedRecord):
    """A record within a record."""

    ratio: float


class Sample(SavedRecord):
    """A sample record."""

    count: int
    name: str
    inner: Inner


GOOD = {"count": 3, "name": "a", "inner": {"ratio": 0.5}}


def message(tree):
    with pytest.raises(ValueError) as caught:
        validated(Sample, tree, "file x", ValueError)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_tree_of_exact_types_is_accepted():
    assert validated(Sample, GOOD, "file x", ValueError).inner.ratio == 0.5
    assert validated(Sample, GOOD | {"inner": {"ratio": 1}}, "file x", ValueError).inner.ratio == 1.0


@pytest.mark.parametrize("value", [value for value in STRANGE if value not in (-1, -(10**20))])
def test_a_value_of_another_type_is_refused_with_its_place(value):
    if value != 10**400:
        assert "file x is damaged: count: " in message(GOOD | {"count": value})
    assert message([value]).startswith("file x is damaged: the content: ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.5", True, None])
def test_a_number_that_is_not_finite_is_refused(value):
    assert "inner.ratio: " in message(GOOD | {"inner": {"ratio": value}})


def test_missing_and_unknown_keys_are_refused_with_their_names():
    text = message({"count": 3, "inner": {"ratio": 0.5, "other": 1}})
    assert "name: Field required" in text
    assert "inner.other: Extra inputs are not permitted (got 1)" in text


@dataclass(frozen=True)
class Plain:
    """A dataclass with a default."""

    words: frozenset[str]
    stage: Stage
    age: int = 0
    ratio: float = 1.0


class Holder(SavedRecord):
    """A record with a dataclass in it."""

    plain: Plain


WHOLE = {"words": ["b", "a"], "stage": 2, "age": 3, "ratio": 1}


def test_a_complete_tree_is_accepted_whatever_the_order_of_a_set():
    plain = validated(Holder, {"plain": WHOLE}, "file x", ValueError, complete=True).plain
    assert plain == Plain(frozenset("ab"), Stage.GERMINATED, 3, 1.0)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"age": None}, "plain.age: Input"),
        ({"age": ...}, "plain.age: a value is missing"),
        ({"ratio": ...}, "plain.ratio: a value is missing"),
        ({"words": ["a", "a"]}, "plain.words: a value is missing or of another type"),
        ({"stage": True}, "plain.stage: "),
        ({"more": 1}, "plain.more: Unexpected keyword argument"),
    ],
)
def test_an_incomplete_tree_is_refused_with_the_place(change, place):
    tree = {key: value for key, value in (WHOLE | change).items() if value is not ...}
    with pytest.raises(ValueError, match=f"file x is damaged: {place}"):
        validated(Holder, {"plain": tree}, "file x", ValueError, complete=True)


def test_a_long_value_is_shortened():
    assert len(message(GOOD | {"count": "x" * 10_000})) < 200
