"""The reward of an episode as typed entries; every total is a sum over them."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.records import LedgerEntry


class Ledger:
    """Entries of one episode, in the order in which they were booked."""

    def __init__(self) -> None:
        self._entries: list[LedgerEntry] = []

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries."""
        return tuple(self._entries)

    def book(self, entries: Iterable[LedgerEntry]) -> float:
        """Add ``entries``; their sum.

        Raises:
            ValueError: if an amount is not finite, or a cause lies after its step; nothing is booked then.
        """
        new = tuple(entries)
        for entry in new:
            if not np.isfinite(entry.amount):
                raise ValueError(f"ledger entry {entry.source!r} at step {entry.step} has amount {entry.amount}")
            if not 0 <= entry.cause_step <= entry.step:
                raise ValueError(
                    f"ledger entry {entry.source!r} at step {entry.step} cannot be caused by step {entry.cause_step}"
                )
        self._entries += new
        return sum((entry.amount for entry in new), 0.0)

    def total(self) -> float:
        """Sum of all amounts."""
        return sum((entry.amount for entry in self._entries), 0.0)

    def by_cause(self, steps: int) -> NDArray[np.float64]:
        """(steps,) amounts summed over the step that caused them."""
        rewards = np.zeros(steps)
        for entry in self._entries:
            rewards[entry.cause_step] += entry.amount
        return rewards

    def by_source(self) -> dict[str, float]:
        """Amounts summed over their source."""
        sums: dict[str, float] = defaultdict(float)
        for entry in self._entries:
            sums[entry.source] += entry.amount
        return dict(sums)
