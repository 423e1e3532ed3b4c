"""Signals that end a start at once, before there is anything that could be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from esper_ray.leyline.process.signals import SIGNALS


@contextmanager
def interruptible() -> Iterator[None]:
    """Context in which a signal to stop raises at once.

    That holds in the main thread; elsewhere nothing changes. The handlers that were installed before are installed
    again at its end, whatever Ray has installed in between.

    Raises:
        KeyboardInterrupt: after Ctrl-C where Python's own handler was installed.
        SystemExit: otherwise, with 128 plus the number of the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def end(number: int, _frame: FrameType | None) -> None:
        if before[number] is signal.default_int_handler:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    handled = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
