"""Errors that the user can correct, and faults of a run that continues."""

from dataclasses import dataclass
from typing import ClassVar


class UserError(Exception):
    """Error whose cause the user can correct: a request, a file or a machine.

    The message carries the value and the constraint. The command line prints it without a traceback and
    exits with ``exit_code``. ``remedy`` is what the page of messages recommends.
    """

    exit_code: ClassVar[int] = 2
    remedy: ClassVar[str]


class UsageError(UserError):
    """Command arguments that cannot be executed."""

    remedy = "Correct the argument that the message names; `--help` lists what is possible."


@dataclass(frozen=True, slots=True)
class Fault:
    """Fault of a run that continues, or the recovery from one."""

    kind: str
    """Kind in the event log, such as ``environment_actor_died`` or ``episode_failed``."""
    who: str
    detail: str
    seconds: float | None = None
    """Duration; ``None`` if it was not measured."""

    def describe(self) -> str:
        """The fault as one line of text."""
        duration = "" if self.seconds is None else f" after {self.seconds:.1f} s"
        return f"{self.kind.replace('_', ' ')}{duration}: {self.who}" + (f": {self.detail}" if self.detail else "")
