"""Outcome of one environment step, and the stopwatch of its phases."""

import time
from dataclasses import dataclass
from typing import Any

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.records import Event, LedgerEntry, Reports


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Outcome of one environment step, or the state after a reset."""

    episode_seed: int
    epoch: int
    """Epochs trained in this episode."""
    val_loss: float
    """Validation loss in nats."""
    val_accuracy_pp: float
    committed_accuracy_pp: float
    """Validation accuracy with only committed seeds on."""
    host_parameters: int
    total_parameters: int
    """Parameters of host and seeds."""
    committed_parameters: int
    """Parameters of committed seeds."""
    reports: Reports
    """Slots at the end of the step."""
    operation: LifecycleOp = LifecycleOp.WAIT
    """Executed operation; WAIT if the action was illegal."""
    slot: str | None = None
    """Slot of the operation; ``None`` for WAIT."""
    success: bool = True
    """Whether the action was legal, took effect and was not reverted by a rollback."""
    illegal: bool = False
    train_loss: float | None = None
    """Mean training loss in nats; ``None`` without training."""
    events: tuple[Event, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    reward: float = 0.0
    """Sum of the entries."""
    terminated: bool = False
    truncated: bool = False

    @property
    def last(self) -> bool:
        """Whether the episode ends with this step."""
        return self.terminated or self.truncated

    @property
    def growth_ratio(self) -> float:
        """Parameters of host and seeds over those of the host."""
        return self.total_parameters / self.host_parameters


def step_info(outcome: StepOutcome) -> dict[str, Any]:
    """``outcome`` as the ``info`` of Gymnasium."""
    return {
        "episode_seed": outcome.episode_seed,
        "epoch": outcome.epoch,
        "operation": outcome.operation.name,
        "slot": outcome.slot,
        "success": outcome.success,
        "illegal": outcome.illegal,
        "train_loss": outcome.train_loss,
        "val_loss": outcome.val_loss,
        "val_accuracy_pp": outcome.val_accuracy_pp,
        "committed_accuracy_pp": outcome.committed_accuracy_pp,
        "total_parameters": outcome.total_parameters,
        "committed_parameters": outcome.committed_parameters,
        "growth_ratio": outcome.growth_ratio,
        "entries": outcome.entries,
        "events": outcome.events,
        "reports": outcome.reports,
    }


class Stopwatch:
    """Stopwatch of wall time by phase. Queued GPU work counts in the phase that waits for it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Add the time since the last call, or since construction, to ``phase``."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
