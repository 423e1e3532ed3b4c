"""Ledger of an episode's reward as typed entries; every total is their sum."""

from collections import defaultdict
from collections.abc import Iterable
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.records import LedgerEntry, Source


class RewardError(ValueError):
    """Missing or invalid evidence for a payment; nothing is paid."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Machine-readable name of the error."""


def check_finite(name: str, value: float) -> None:
    """Check that evidence is a finite number.

    Raises:
        RewardError: naming it.
    """
    if not isfinite(value):
        raise RewardError("non_finite_measurement", f"{name} is {value}, it must be finite; nothing was paid")


class Ledger:
    """Ledger of entries in booking order."""

    def __init__(self, entries: Iterable[LedgerEntry] = ()) -> None:
        """
        Raises:
            ValueError: see :meth:`book`.
        """
        self._entries: list[LedgerEntry] = []
        self.book(entries)

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries."""
        return tuple(self._entries)

    def book(self, entries: Iterable[LedgerEntry]) -> float:
        """Add ``entries`` and return their sum.

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

    def of_step(self, step: int) -> "Ledger":
        """Entries booked at ``step``, whose sum is its reward."""
        return Ledger(entry for entry in self._entries if entry.step == step)

    def caused_by(self, step: int) -> "Ledger":
        """Entries caused by ``step``, whenever they were booked."""
        return Ledger(entry for entry in self._entries if entry.cause_step == step)

    def of_slot(self, slot: str | None) -> "Ledger":
        """Entries of ``slot``; with ``None``, those of the whole network."""
        return Ledger(entry for entry in self._entries if entry.slot == slot)

    def of_source(self, source: Source) -> "Ledger":
        """The entries of one term."""
        return Ledger(entry for entry in self._entries if entry.source == source)

    def total(self) -> float:
        """Sum of all amounts."""
        return sum((entry.amount for entry in self._entries), 0.0)

    def by_cause(self, steps: int) -> NDArray[np.float64]:
        """(steps,) amounts summed over the step that caused them."""
        rewards = np.zeros(steps)
        for entry in self._entries:
            rewards[entry.cause_step] += entry.amount
        return rewards

    def by_source(self) -> dict[Source, float]:
        """Amounts summed over their source: the components of the reward."""
        sums: dict[Source, float] = defaultdict(float)
        for entry in self._entries:
            sums[entry.source] += entry.amount
        return dict(sums)

    def by_slot(self) -> dict[str | None, float]:
        """Amounts summed over the slot they were paid for."""
        sums: dict[str | None, float] = defaultdict(float)
        for entry in self._entries:
            sums[entry.slot] += entry.amount
        return dict(sums)
