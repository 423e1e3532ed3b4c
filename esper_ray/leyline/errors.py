"""Errors that the user can correct, and faults of a run that continues."""

from dataclasses import dataclass
from typing import Any, ClassVar

from esper_ray.leyline.process.credentials import without_credentials

MOST_CHARACTERS = 2000
"""Greatest length of a line of a message."""


class UserError(Exception):
    """Error whose cause the user can correct: a request, a file or a machine.

    The message carries the value and the constraint. The command line prints it without a traceback and
    exits with ``exit_code``. ``remedy`` is what the page of messages recommends. Credentials of URIs are never part of
    the message.
    """

    exit_code: ClassVar[int] = 2
    remedy: ClassVar[str]

    def __str__(self) -> str:
        return "\n".join(map(_printable, without_credentials(super().__str__()).split("\n")))


def _printable(line: str) -> str:
    """A line of a message without control characters; a very long one lacks its middle."""
    half = MOST_CHARACTERS // 2
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    return line if len(line) <= MOST_CHARACTERS else f"{line[:half]} ... {line[-half:]}"


class UsageError(UserError):
    """Command arguments that cannot be executed."""

    remedy = "Correct the argument that the message names; `--help` lists what is possible."


class MissingExtraError(UserError, ImportError):
    """A package that an optional part needs and that is not installed."""

    remedy = "Install the extra that the message names."


def missing_extra(package: str, extra: str) -> str:
    """The message that ``package`` is missing, and how to install ``extra`` of esper-ray."""
    return (
        f"the package {package} is not installed; install it with `uv sync --extra {extra}` or "
        f"`pip install 'esper-ray[{extra}]'`"
    )


def shortened(value: Any, most: int = 100) -> str:
    """``repr(value)`` in at most ``most`` characters, for messages."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


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
