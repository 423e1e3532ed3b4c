"""Records as the event log has them: null for numbers that are not finite."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from esper_ray.nissa.catalogue.kinds import KINDS


def json_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with JSON types, as in the event log. Numbers that are not finite become null and are listed."""
    clean: dict[str, Any] = json.loads(json.dumps(finite_record(record), allow_nan=False))
    return clean


def finite_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """``record`` as the event log has it: null for numbers that are not finite, whose names ``nonfinite`` lists.

    NaN of a field that is declared as undefined for some records is not listed.
    """
    with suppress(ValueError):  # of most records all numbers are finite, which the encoder finds fastest
        json.dumps(record, allow_nan=False)
        return record
    nonfinite: list[str] = []
    clean: dict[str, Any] = _strict(dict(record), "", nonfinite)
    undefined = {name for name in _undefined(record.get("kind")) if name in record and record[name] != record[name]}
    nonfinite = [name for name in nonfinite if name not in undefined]
    return clean | ({"nonfinite": nonfinite} if nonfinite else {})


@cache
def _undefined(kind: object) -> frozenset[str]:
    """Names of the fields whose NaN says that they have no meaning in this record."""
    fields = KINDS[kind].fields if isinstance(kind, str) and kind in KINDS else ()
    return frozenset(field.name for field in fields if field.undefined)


def _strict(value: Any, path: str, nonfinite: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _strict(v, f"{path}.{k}" if path else str(k), nonfinite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v, f"{path}[{i}]", nonfinite) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(path)
        return None
    return value
