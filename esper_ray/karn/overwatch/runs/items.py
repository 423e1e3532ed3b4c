"""The newest items of a followed run, by number, for clients that fold them themselves."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from esper_ray.karn.recent import Recent
from esper_ray.leyline.records import Record
from esper_ray.nissa.state.run_state import RunState

KEPT_ITEMS = 1000
"""Newest items that are kept; a client that was away for longer gets the whole state."""
ItemKind = Literal["event", "live", "sample"]


@dataclass(frozen=True, slots=True)
class FoldedShot:
    """The state of a run, and how many items it holds."""

    item: int = 0
    """Number of the newest item."""
    state: RunState = field(default_factory=RunState)
    recent: Recent = field(default_factory=Recent)


class NewestItems:
    """Collector that numbers the items of a run. It is read from other threads."""

    def __init__(self, kept: int = KEPT_ITEMS, start: int = 0) -> None:
        """
        Args:
            kept: number of items.
            start: number before the first item; one made of the time differs after a restart of the server.
        """
        self._items: deque[tuple[int, ItemKind, Record]] = deque(maxlen=kept)
        self._lock = threading.Lock()
        self.newest = start
        """Number of the newest item; it grows while the server runs."""
        self._first = start + 1

    def event(self, record: Record) -> None:
        """Add an event of the log."""
        self._add("event", record)

    def live_step(self, record: Record) -> None:
        """Add a step of an episode in play."""
        self._add("live", record)

    def sample(self, record: Record) -> None:
        """Add a sample."""
        self._add("sample", record)

    def clear(self) -> None:
        """Drop everything: the log is read anew."""
        with self._lock:
            self._items.clear()
            self.newest += 1
            self._first = self.newest + 1

    def _add(self, kind: ItemKind, record: Record) -> None:
        with self._lock:
            if len(self._items) == self._items.maxlen:
                self._first = self._items[1][0] if len(self._items) > 1 else self.newest + 1
            self.newest += 1
            self._items.append((self.newest, kind, record))

    def between(self, since: int, end: int) -> list[tuple[ItemKind, Record]] | None:
        """Items after ``since`` up to ``end``; ``None`` if some of them are gone."""
        with self._lock:
            if not self._first - 1 <= since <= end:
                return None
            return [(kind, record) for number, kind, record in self._items if since < number <= end]
