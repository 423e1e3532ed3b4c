"""Lines of progress for logs and pipes, with a line at least every half minute."""

import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Self

from rich.console import Console

LINE_SECONDS = 30.0
"""Longest time in seconds without a line of plain progress."""


class ProgressLines:
    """Printer of lines, with a status line after some time without any other.

    A context manager: the status lines come between start and end.
    """

    def __init__(
        self, console: Console, status: Callable[[], str], every_s: float = LINE_SECONDS, prefix: str = ""
    ) -> None:
        """
        Args:
            status: text of a status line; called from another thread.
            every_s: longest time without a line, in seconds.
            prefix: put before every line.
        """
        self._console, self._status, self._every_s, self._prefix = console, status, every_s, prefix
        self._ended = Event()
        self._lock = Lock()
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the status lines."""
        self._printed = time.monotonic()
        Thread(target=self._watch, name="progress", daemon=True).start()

    def stop(self) -> None:
        """End the status lines."""
        self._ended.set()

    def print(self, line: str) -> None:
        """Print ``line``."""
        with self._lock:
            self._printed = time.monotonic()
            self._console.print(f"{self._prefix}{line}", highlight=False, markup=False, soft_wrap=True)

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, self._printed + self._every_s - time.monotonic())):
            if time.monotonic() - self._printed >= self._every_s:
                self.print(self._status())
