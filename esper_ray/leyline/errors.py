"""Errors that the user can correct, and faults of a run that continues."""

from dataclasses import dataclass
from typing import ClassVar


class UserError(Exception):
    """A request, a file or a machine that the user can correct.

    The message carries the value and the constraint. The command line prints it without a traceback and
    exits with ``exit_code``. ``remedy`` is what the page of messages recommends.
    """

    exit_code: ClassVar[int] = 2
    remedy: ClassVar[str]


class UsageError(UserError):
    """Arguments that a command cannot be executed with."""

    remedy = "Correct the argument that the message names; `--help` lists what is possible."


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that went wrong, or that is right again; training goes on."""

    kind: str
    """In the words of the log, such as ``environment_actor_died`` or ``episode_failed``."""
    who: str
    detail: str
    seconds: float | None = None
    """How long it took, where that is known."""

    def describe(self) -> str:
        """One line for people."""
        took = "" if self.seconds is None else f" after {self.seconds:.1f} s"
        return f"{self.kind.replace('_', ' ')}{took}: {self.who}" + (f": {self.detail}" if self.detail else "")
