"""Signal handlers for the time before a job starts."""

import os
import signal
from collections.abc import Iterator
from types import FrameType

from esper_ray.leyline.process.signals import leave_closed_terminal, received_signals

NOTHING_STARTED = b"esper: interrupted before anything was started\n"


def exit_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP end the program. The exit code is 128 plus the signal number.

    An ignored SIGHUP (``nohup``) stays ignored. While a command imports its modules, a line on standard error says that
    nothing was started.
    """

    def exit_program(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_closed_terminal()
        if _only_imports(frame):
            os.write(2, NOTHING_STARTED)  # unbuffered, since the signal may interrupt a print
        raise SystemExit(128 + number)

    for number in received_signals():
        signal.signal(number, exit_program)


def _only_imports(frame: FrameType | None) -> bool:
    """Whether an import is in progress outside of any function of a job."""
    frames = list(_stack(frame))
    in_job = any(
        f.f_globals.get("__name__", "").startswith("esper_ray.cli.jobs") and f.f_code.co_name != "<module>"
        for f in frames
    )
    return not in_job and any(f.f_code.co_filename.startswith("<frozen importlib") for f in frames)


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
