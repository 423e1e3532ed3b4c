"""The base class of errors that the user can correct."""

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
