"""Slot identifiers: ``r<row>c<column>``, for example ``r0c1``.

Slots are indexed row-major everywhere an index is needed (actions, masks, observations).
"""

import re
from collections.abc import Iterable
from itertools import pairwise

from esper_ray.leyline.errors import UserError, shortened

_PATTERN = re.compile(r"r(0|[1-9]\d{0,8})c(0|[1-9]\d{0,8})", re.ASCII)


class SlotIdError(UserError, ValueError):
    """Malformed slot identifier, or a list of slots that is empty or has duplicates."""

    remedy = "Write slots as `r<row>c<column>`, each once, for example `r0c0 r0c1`."


def parse_slot_id(slot_id: str) -> tuple[int, int]:
    """Row and column of ``slot_id``.

    Raises:
        SlotIdError: if it is not of the form ``r<row>c<column>`` with decimal, non-negative numbers.
    """
    match = _PATTERN.fullmatch(slot_id)
    if match is None:
        raise SlotIdError(f"slot id {shortened(slot_id)} is not of the form r<row>c<column>, for example 'r0c1'")
    return int(match[1]), int(match[2])


def format_slot_id(row: int, column: int) -> str:
    """The identifier of the slot at ``row`` and ``column``.

    Raises:
        SlotIdError: if either is negative.
    """
    if row < 0 or column < 0:
        raise SlotIdError(f"slot row and column must be >= 0, got row {row} and column {column}")
    return f"r{row}c{column}"


def ordered_slot_ids(slot_ids: Iterable[str]) -> tuple[str, ...]:
    """``slot_ids`` in row-major order.

    Raises:
        SlotIdError: if one is malformed, one is listed twice, or there is none.
    """
    ids = tuple(slot_ids)
    if not ids:
        raise SlotIdError("at least one slot is needed, got none")
    ordered = tuple(sorted(ids, key=parse_slot_id))
    for first, second in pairwise(ordered):
        if first == second:
            raise SlotIdError(f"slot {first!r} is listed twice in {list(ids)}")
    return ordered
