"""Many coalitions of seeds in one pass: which rows of a batch see which seed.

A pass goes on with one block of rows per distinct choice made so far, so that what two coalitions have
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
    """What happens to the blocks of a batch at a slot. First come those that pass it by, then those with its seed."""

    blocks: int
    """Blocks that arrive."""
    off: tuple[int, ...]
    """Which of them go on without the seed."""
    on: tuple[int, ...]
    """Which of them go on with it."""

    @property
    def complete(self) -> bool:
        """Whether every block goes both ways."""
        every = tuple(range(self.blocks))
        return self.off == every and self.on == every


def subsets(slots: Collection[str]) -> list[Members]:
    """All coalitions of ``slots``."""
    return [frozenset(c) for size in range(len(slots) + 1) for c in combinations(sorted(slots), size)]


def forks(order: Sequence[str], coalitions: Collection[Members]) -> tuple[dict[str, Fork], tuple[Members, ...]]:
    """What happens at each slot of ``order``, and the coalition that each block of the output stands for."""
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
    """``copies`` of the rows of a tensor, one after another; anything else as it is."""
    return value.repeat(copies, *[1] * (value.dim() - 1)) if isinstance(value, Tensor) and value.dim() else value
