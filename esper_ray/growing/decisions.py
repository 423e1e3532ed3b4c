"""Decisions of a session: what the policy saw, and what came of its action."""

from dataclasses import dataclass, replace

from esper_ray.leyline.actions import Action, Blueprint
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import HostSignals, Reports


@dataclass(frozen=True, slots=True)
class Step:
    """Action of the policy before an epoch, with the state of the network."""

    epoch: int
    """Index of the next epoch to train, counted from 0."""
    operation: str
    slot: str | None
    """Slot of the operation; ``None`` for WAIT."""
    blueprint: str | None
    """Blueprint of the germinated seed; ``None`` for other operations."""
    success: bool
    """Whether the operation took effect; a gate may refuse it."""
    val_loss: float
    val_accuracy_pp: float
    """Score on the held-out examples before the epoch, in percentage points: the accuracy of a classifier."""
    parameters: int
    """Parameters of host and seeds."""
    restored: str | None = None
    """Reason of a rollback after the previous epoch; ``None`` without a rollback."""

    def __str__(self) -> str:
        done = "" if self.slot is None else f"  {self.operation} {self.slot}"
        done += "" if self.blueprint is None else f" {self.blueprint}"
        done += "" if self.success else " (refused)"
        done += "" if self.restored is None else f"  restored: {self.restored}"
        return f"epoch {self.epoch:3d}  held out {self.val_accuracy_pp:5.1f} %  {self.parameters:,} parameters{done}"


@dataclass(frozen=True, slots=True)
class Decided:
    """Signals and slots that a policy saw, and the action that it chose, as indices."""

    signals: HostSignals
    reports: Reports
    action: tuple[int, ...]
    closed: tuple[str, ...]
    """Slots in which no seed could be born."""
    blueprints: tuple[Blueprint, ...]
    """Blueprints that fitted somewhere."""

    @classmethod
    def by(cls, action: Action, view: View, limits: Limits) -> "Decided":
        """``action``, chosen from ``view`` under ``limits``."""
        indices = tuple(action.to_indices())
        return cls(view.signals, view.reports, indices, tuple(sorted(limits.closed)), tuple(sorted(limits.blueprints)))

    def limits(self, limits: Limits) -> Limits:
        """The limits of then in a session with ``limits``."""
        return replace(limits, closed=frozenset(self.closed), blueprints=frozenset(self.blueprints))
