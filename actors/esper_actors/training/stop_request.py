"""A stop request by Ctrl-C, SIGTERM or SIGHUP, which training checks where stopping is safe."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

from esper_ray.leyline.process.signals import leave_closed_terminal, received_signals


class StopRequest:
    """A flag that the first signal sets; a second Ctrl-C exits at once.

    Signals are received within ``with`` in the main thread only; other threads call :meth:`request`. An ignored SIGHUP
    (``nohup``) stays ignored.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in received_signals()}
        self.listen()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self._requested or self.signal is not None

    def request(self) -> None:
        """Request a stop, as a signal would."""
        self._requested = True

    def listen(self) -> None:
        """Install the handlers (again): Ray installs one of its own when it starts."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in received_signals():
            signal.signal(number, self._receive)

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal; 0 without one. SIGHUP gives 129, Ctrl-C 130, SIGTERM 143."""
        return 0 if self.signal is None else 128 + self.signal

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self.signal = number
        if number == signal.SIGHUP:
            leave_closed_terminal()
        name = signal.Signals(number).name
        print(f"\n{name}: stopping; Ctrl-C again exits at once", file=sys.stderr, flush=True)  # noqa: T201
