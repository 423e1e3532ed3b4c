"""Signals before anything has begun."""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_on_signals() -> None:
    """Before anything has begun, a signal simply ends the program with the exit code that belongs to it."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in SIGNALS:
        signal.signal(number, leave)
