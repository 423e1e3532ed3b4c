"""Brings the numbers of a run to sinks, each in a thread of its own, so that none can delay or end training."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, Full, Queue, SimpleQueue
from threading import Thread

from esper_ray.nissa.sinks.protocol import RunFacts, Sink

logger = logging.getLogger(__name__)

WAITING = 256
"""Rounds that may wait for a slow sink; later ones are dropped, which is reported at the end."""
TRIES = 3
"""Failures in a row after which a sink is given up."""
SINK_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a sink could not do."""

    sink: str
    what: str


class Delivery:
    """All sinks of a run."""

    def __init__(self, sinks: Iterable[Sink], facts: RunFacts) -> None:
        self._problems: SimpleQueue[Problem] = SimpleQueue()
        self._lanes = [_Lane(sink, facts, self._problems.put) for sink in sinks]

    def round(self, values: Mapping[str, float], round_index: int) -> None:
        """Numbers of a round. Returns at once."""
        for lane in self._lanes:
            lane.put(dict(values), round_index)

    def close(self, status: str, picture: Path | None, patience_s: float = SINK_PATIENCE_SECONDS) -> None:
        """The run is over: wait for what is left, for all sinks together at most ``patience_s`` seconds."""
        deadline = time.monotonic() + patience_s
        for lane in self._lanes:
            lane.end(status, picture)
        for lane in self._lanes:
            lane.wait(max(0.0, deadline - time.monotonic()))
        self._lanes = []

    def problems(self) -> list[Problem]:
        """What has gone wrong since the last time."""
        found = []
        while True:
            try:
                found.append(self._problems.get_nowait())
            except Empty:
                return found


class _Lane:
    """One sink, its queue and its thread."""

    def __init__(self, sink: Sink, facts: RunFacts, tell: Callable[[Problem], None]) -> None:
        self._sink, self._facts, self._tell = sink, facts, tell
        self._queue: Queue[Callable[[], None] | None] = Queue(WAITING)
        self._opened = self._given_up = False
        self._failures = self._dropped = self._lost = 0
        self._thread = Thread(target=self._work, name=f"sink-{sink.name}", daemon=True)
        self._thread.start()

    def put(self, values: Mapping[str, float], round_index: int) -> None:
        try:
            self._queue.put_nowait(partial(self._sink.round, values, round_index))
        except Full:
            self._dropped += 1

    def end(self, status: str, picture: Path | None) -> None:
        for last in (partial(self._sink.close, status, picture), None):
            try:
                self._queue.put_nowait(last)
            except Full:
                self._dropped += 1

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(f"it has not taken everything in time; {self._queue.qsize()} messages were left")
        elif self._lost and not self._given_up:
            self._say(f"{self._lost} messages failed")
        if self._dropped:
            self._say(f"{self._dropped} messages were dropped because it was too slow")

    def _work(self) -> None:
        self._try(lambda: None)  # which opens it
        while (task := self._queue.get()) is not None:
            if self._given_up:
                continue
            self._lost += not self._try(task)

    def _try(self, task: Callable[[], None]) -> bool:
        try:
            if not self._opened:
                self._sink.open(self._facts)
                self._opened = True
            task()
        except BaseException as error:  # libraries exit, too
            self._failures += 1
            logger.debug("sink %s", self._sink.name, exc_info=True)
            if self._failures == 1:
                self._say(_words(error))
            if self._failures == TRIES:
                self._given_up = True
                self._say(f"given up after {TRIES} failures in a row: {_words(error)}")
            return False
        self._failures = 0
        return True

    def _say(self, what: str) -> None:
        self._tell(Problem(self._sink.name, what))


def _words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
