"""Plan of a forward pass with many coalitions.

It has the rows of a batch that pass each seed.

After each slot there is one block of rows per distinct choice so far, so that what two coalitions have
in common up to some slot is computed once. Blocks are B rows each, one after another.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torch import Tensor

from esper_ray.leyline.records import Members


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork of the blocks of a batch at a slot, without and with its seed."""

    blocks: int
    """Number of incoming blocks."""
    off: tuple[int, ...]
    """Indices of the blocks without the seed."""
    on: tuple[int, ...]
    """Indices of the blocks with the seed."""

    @property
    def complete(self) -> bool:
        """Whether every block goes both ways."""
        every = tuple(range(self.blocks))
        return self.off == every and self.on == every


def subsets(slots: Collection[str]) -> list[Members]:
    """All coalitions of ``slots``."""
    return [frozenset(c) for size in range(len(slots) + 1) for c in combinations(sorted(slots), size)]


def forks(order: Sequence[str], coalitions: Collection[Members]) -> tuple[dict[str, Fork], tuple[Members, ...]]:
    """Fork at each slot of ``order``, and the coalition of each output block."""
    prefixes: list[Members] = [frozenset()]
    plan: dict[str, Fork] = {}
    for index, slot in enumerate(order):
        past = frozenset(order[: index + 1])
        wanted = {coalition & past for coalition in coalitions}
        off = tuple(i for i, prefix in enumerate(prefixes) if prefix in wanted)
        on = tuple(i for i, prefix in enumerate(prefixes) if prefix | {slot} in wanted)
        plan[slot] = Fork(len(prefixes), off, on)
        prefixes = [prefixes[i] for i in off] + [prefixes[i] | {slot} for i in on]
    return plan, tuple(prefixes)


def repeated(value: Any, copies: int) -> Any:
    """The rows of a tensor repeated ``copies`` times; other values are returned unchanged."""
    return value.repeat(copies, *[1] * (value.dim() - 1)) if isinstance(value, Tensor) and value.dim() else value
