"""Ctrl-C and SIGTERM as a request to stop, which training checks where stopping is safe."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within ``with``, the first signal only sets a flag; a second Ctrl-C exits at once.

    Signals are received in the main thread only; elsewhere, :meth:`ask` is the way to stop.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self._asked or self.signal is not None

    def ask(self) -> None:
        """Request a stop, as a signal would."""
        self._asked = True

    def listen(self) -> None:
        """Install the handlers (again): Ray installs one of its own when it starts."""
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
