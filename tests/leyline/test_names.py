"""Names of runs and sweeps."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.names import NAME_PATTERN, checked_name, checked_option

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@given(st.sampled_from(LETTERS), st.text(st.sampled_from(f"{LETTERS}._-"), max_size=99))
def test_a_name_of_the_pattern_is_itself(first, rest):
    assert checked_name(first + rest) == checked_option("--run-id", first + rest) == first + rest


@given(st.text(max_size=6))
def test_a_text_is_a_name_only_if_it_matches_the_pattern(text):
    valid = bool(text) and text[0] in LETTERS and not set(text) - {*LETTERS, *"._-"}
    assert bool(re.fullmatch(NAME_PATTERN, text)) is valid
    if not valid:
        with pytest.raises(UsageError, match="a name has at most 100 letters"):
            checked_option("--run-id", text)


@pytest.mark.parametrize(
    "name", ["x" * 101, "a/b", "..", "a\n", "\n", "s3://x", "a\0", "x" * 10**6], ids=lambda name: repr(name[:9])
)
def test_a_refusal_names_the_option_and_shortens_the_name(name):
    with pytest.raises(UsageError) as caught:
        checked_option("--run-id", name)
    message = str(caught.value)
    assert message.startswith("--run-id '")
    assert len(message) < 300
    assert "\n" not in message
