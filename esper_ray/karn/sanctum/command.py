"""The command that trains what Sanctum shows, where both were started together by ``--sanctum``."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CommandState:
    """A training command at one moment."""

    pid: int
    """Number of its process."""
    stops: int = 0
    """How often it was asked to stop."""
    exit_code: int | None = None
    """``None`` while it runs."""

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None


class ShownCommand(Protocol):
    """A command that runs beside Sanctum."""

    def state(self) -> CommandState:
        """Whether it runs, and how often it was asked to stop."""

    def stop(self) -> None:
        """Ask it to stop, as Ctrl-C would."""
