"""Ctrl-C and SIGTERM as a request to stop, looked at where stopping is safe."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within ``with``, the first signal only sets a flag; a second Ctrl-C ends the program at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._asked or self.signal is not None

    def ask(self) -> None:
        """Ask to stop, as a signal would."""
        self._asked = True

    def listen(self) -> None:
        """Take the signals (again): Ray installs a handler of its own when it starts. Only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            signal.signal(number, self._receive)

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal: 130 for Ctrl-C, 143 for SIGTERM; 0 without a signal."""
        return 0 if self.signal is None else 128 + self.signal

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self.signal = number
        name = signal.Signals(number).name
        print(f"\n{name}: stopping; Ctrl-C again gives up at once", file=sys.stderr, flush=True)  # noqa: T201


def exit_on_signals() -> None:
    """Before anything has begun, a signal simply ends the program with the exit code that belongs to it."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in SIGNALS:
        signal.signal(number, leave)
