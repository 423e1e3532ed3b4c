"""A stop request by Ctrl-C or SIGTERM, which training checks where stopping is safe."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A flag that the first signal sets; a second Ctrl-C exits at once.

    Signals are received within ``with`` in the main thread only; other threads call :meth:`request`.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._requested = False
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
        return self._requested or self.signal is not None

    def request(self) -> None:
        """Request a stop, as a signal would."""
        self._requested = True

    def listen(self) -> None:
        """Install the handlers (again): Ray installs one of its own when it starts."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            signal.signal(number, self._receive)

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal; 0 without a signal. Ctrl-C gives 130, SIGTERM 143."""
        return 0 if self.signal is None else 128 + self.signal

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self.signal = number
        name = signal.Signals(number).name
        print(f"\n{name}: stopping; Ctrl-C again exits at once", file=sys.stderr, flush=True)  # noqa: T201
