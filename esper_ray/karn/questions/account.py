"""Account of a step: what it was paid, and what it caused that was paid later."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from esper_ray.leyline.records import Record


@dataclass(frozen=True, slots=True)
class PaidEntry:
    """One entry of the ledger. Steps count from 1."""

    step: int
    """Step with which it was paid."""
    cause: int
    """Step that caused it."""
    source: str
    slot: str | None
    amount: float | None
    """``None`` if it was not finite."""
    reason: str


@dataclass(frozen=True, slots=True)
class StepAccount:
    """Payments around one step, the largest first."""

    booked: tuple[PaidEntry, ...]
    """Entries whose sum is the reward of the step."""
    later: tuple[PaidEntry, ...]
    """Entries of later steps that this step caused, in their order."""


def paid_entries(steps: Iterable[Record]) -> list[PaidEntry]:
    """Entries of these steps, records of kind ``env_epoch``, in order. Steps in play have none."""
    return [
        PaidEntry(step["step"], entry["cause_step"] + 1, entry["source"], entry["slot"], entry["amount"], entry["why"])
        for step in steps
        for entry in step.get("entries") or ()
    ]


def step_account(entries: Sequence[PaidEntry], step: int) -> StepAccount:
    """Account of one step of an episode with these entries."""
    booked = sorted((entry for entry in entries if entry.step == step), key=lambda entry: -abs(entry.amount or 0.0))
    later = tuple(entry for entry in entries if entry.cause == step and entry.step != step)
    return StepAccount(tuple(booked), later)
