"""Options that take several values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.cli.main import spread

A_B_C = ["--slots", "a", "--slots", "b", "--slots", "c"]
slots = st.lists(st.integers(0, 12).map(lambda column: f"r0c{column}"), min_size=1, max_size=5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--slots", "a", "b", "c"],
        ["--slots", "a,b,c"],
        ["--slots=a,b,c"],
        ["--slots", "a,b", "c"],
        ["--slots", "a", "b,c"],
        ["--slots", "a", "--slots", "b", "--slots=c"],
        ["--slots=a", "--slots", "b", "c"],
    ],
)
def test_every_notation_gives_three_values(arguments):
    assert spread(arguments) == A_B_C


def test_devices_take_several_values():
    assert spread(["--devices", "cuda:0", "cuda:1"]) == ["--devices", "cuda:0", "--devices", "cuda:1"]


def test_values_after_the_next_option_belong_to_it():
    arguments = ["train", "ppo", "--slots", "a", "b", "--rounds", "3", "--serial", "--set", "x=1,2"]
    assert spread(arguments) == ["train", "ppo", "--slots", "a", "--slots", "b", *arguments[5:]]


@pytest.mark.parametrize("arguments", [[], ["--slots"], ["version", "--verbose"], ["--set", "growth.slots=[a,b]"]])
def test_other_arguments_are_unchanged(arguments):
    assert spread(arguments) == arguments


@given(values=slots, separate=st.booleans(), equals=st.booleans())
def test_all_notations_are_equal_and_spread_is_idempotent(values, separate, equals):
    notation = ["--slots", *values] if separate else [f"--slots={','.join(values)}"] if equals else None
    result = spread(["ppo", *(notation or ["--slots", ",".join(values)]), "--serial"])
    assert result == ["ppo", *(part for value in values for part in ("--slots", value)), "--serial"]
    assert spread(result) == result
