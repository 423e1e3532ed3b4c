"""Variants of a test that run at night only."""

from collections.abc import Iterable
from typing import Any

import pytest


def at_night(*values: Any) -> list[Any]:
    """Parameters with the marker ``nightly``; a tuple is the values of several names."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.nightly) for value in values
    ]


def rest_at_night(values: Iterable[Any], by_day: int = 1) -> list[Any]:
    """All ``values``, of which the first ``by_day`` run in every tier."""
    every = list(values)
    return [*every[:by_day], *at_night(*every[by_day:])]
