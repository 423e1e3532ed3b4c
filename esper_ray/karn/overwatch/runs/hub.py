"""The followed runs of a server, polled in one thread however many clients there are.

Dataflow::

    a request --> hub.follow(place) --> FollowedRun        made at the first request, dropped when it is long unwatched
    a thread of its own --> the first FollowedRun.poll()   which reads the log; other runs do not wait for it
    thread "overwatch" --> FollowedRun.poll() --> a newer RunShot --> every waiting stream is woken
    a stream --> FollowedRun.shot                          the newest one: there is no queue
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from esper_ray.karn.overwatch.runs.followed import FollowedRun
from esper_ray.karn.overwatch.runs.index import IndexedPlace
from esper_ray.karn.overwatch.runs.stored import Copies

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 0.25
"""Seconds between two looks at a run that goes on."""
OVER_SECONDS = 5.0
"""Seconds between two looks at a run that is over."""
WATCHED_SECONDS = 30.0
"""Time after a request during which a run counts as watched."""
KEPT_RUNS = 32
"""Most followed runs that are kept although no client watches them."""


@dataclass(slots=True)
class _Entry:
    """A followed run and who watches it."""

    run: FollowedRun
    asked: float
    """When it was asked for last, by the clock of the hub."""
    polled: float = float("-inf")
    streams: int = 0
    opening: bool = False
    """Whether its log is being read for the first time."""
    wakers: set[Callable[[], None]] = field(default_factory=set)
    """Called after each change, from the thread of the hub."""

    def is_due(self, now: float) -> bool:
        """Whether it is time for another look."""
        if self.opening or not self.run.shot.complete:
            return not self.opening
        watched = self.streams > 0 or now - self.asked < WATCHED_SECONDS
        return watched and now - self.polled >= (OVER_SECONDS if self.run.is_over else FOLLOW_SECONDS)


class Hub:
    """Followed runs by identity."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, copies: Copies | None = None) -> None:
        """
        Args:
            clock: seconds of this process.
            copies: the storages, of which the watched runs are fetched.
        """
        self.copies = copies or Copies()
        """The storages."""
        self._clock, self._lock = clock, threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="overwatch", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        self.copies.start()
        self._thread.start()

    def close(self) -> None:
        """End the threads and every stream."""
        self.copies.close()
        self._closed.set()
        self._wake.set()
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            _notify(entry)
        if self._thread.is_alive():
            self._thread.join(2.0)

    @property
    def is_closed(self) -> bool:
        """Whether streams should end."""
        return self._closed.is_set()

    def follow(self, place: IndexedPlace) -> FollowedRun:
        """The followed run of a place, which from now on is polled.

        Raises:
            UserError: if it is not a run directory any more.
        """
        return self._entry(place).run

    def _entry(self, place: IndexedPlace) -> _Entry:
        now = self._clock()
        with self._lock:
            entry = self._entries.get(place.id)
            if entry is not None and entry.run.place.path == place.path:
                entry.asked = now
                resting = now - entry.polled > FOLLOW_SECONDS
            else:
                run = FollowedRun(place, self._clock, copies=self.copies)
                self._entries[place.id] = entry = _Entry(run, now)
                resting = True
            self._drop()
        if resting:
            self._wake.set()
        return entry

    def known(self, place: IndexedPlace) -> FollowedRun | None:
        """The followed run of a place; ``None`` if it is not followed now. It does not count as watched."""
        with self._lock:
            entry = self._entries.get(place.id)
        return entry.run if entry is not None and entry.run.shot.complete else None

    def _drop(self) -> None:
        """Drop the runs that were not watched for the longest time, of more than ``KEPT_RUNS``."""
        idle = sorted((entry.asked, name) for name, entry in self._entries.items() if not entry.streams)
        for _, name in idle[: max(0, len(self._entries) - KEPT_RUNS)]:
            del self._entries[name]

    @contextmanager
    def watching(self, place: IndexedPlace) -> Iterator[tuple[FollowedRun, asyncio.Event]]:
        """The followed run, and an event that is set after each change. Used in the event loop of a stream."""
        entry = self._entry(place)
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(changed.set)

        with self._lock:
            entry.streams += 1
            entry.wakers.add(wake)
        try:
            yield entry.run, changed
        finally:
            with self._lock:
                entry.streams -= 1
                entry.wakers.discard(wake)
                entry.asked = self._clock()

    def poll(self) -> float:
        """Look at every run that is due. Returns the seconds until the next look."""
        with self._lock:
            entries = list(self._entries.values())
        waits = [OVER_SECONDS]
        for entry in entries:
            if self._closed.is_set():
                break
            now = self._clock()
            if entry.is_due(now):
                if entry.run.shot.complete:
                    self._poll_entry(entry)
                else:
                    self._open(entry)
            if entry.streams or entry.polled - entry.asked < WATCHED_SECONDS:
                waits.append(OVER_SECONDS if entry.run.is_over else FOLLOW_SECONDS)
        return min(waits)

    def _open(self, entry: _Entry) -> None:
        """Start the thread that reads the log of a run for the first time."""
        entry.opening = True
        threading.Thread(target=self._poll_entry, args=(entry,), name="overwatch-open", daemon=True).start()

    def _poll_entry(self, entry: _Entry) -> None:
        try:
            changed = entry.run.poll()
        except Exception as error:
            logger.exception("%s cannot be followed", entry.run.place.id)
            changed = entry.run.fail(f"{type(error).__name__}: {error}")
        if changed:
            _notify(entry)
        if entry.run.complete_history():
            _notify(entry)
        entry.polled, entry.opening = self._clock(), False

    def _work(self) -> None:
        while not self._closed.is_set():
            began = self._clock()
            wait_s = self.poll()
            self._wake.wait(max(0.0, wait_s - (self._clock() - began)))
            self._wake.clear()


def _notify(entry: _Entry) -> None:
    for wake in list(entry.wakers):
        wake()
