"""Signal handlers for the time before a job starts."""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_on_signals() -> None:
    """Make SIGINT and SIGTERM end the program with exit code 128 plus the signal number."""

    def exit_program(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in SIGNALS:
        signal.signal(number, exit_program)
