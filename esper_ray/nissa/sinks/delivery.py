"""Delivery of the metrics of a run to sinks, one thread for each sink. No sink delays or ends training."""

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

QUEUE_SIZE = 256
"""Rounds that may wait for a slow sink; further ones are dropped, which is reported at the end."""
TRIES = 3
"""Consecutive failures after which a sink is disabled."""
DRAIN_SECONDS = 30.0
"""Longest wait for all sinks at the end of a run."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Failure of a sink."""

    sink: str
    what: str


class Delivery:
    """Sinks of a run, one queue and thread each."""

    def __init__(self, sinks: Iterable[Sink], facts: RunFacts) -> None:
        self._problems: SimpleQueue[Problem] = SimpleQueue()
        self._lanes = [_Lane(sink, facts, self._problems.put) for sink in sinks]

    def round(self, values: Mapping[str, float], round_index: int) -> None:
        """Queue the numbers of a round. Returns at once."""
        for lane in self._lanes:
            lane.put(dict(values), round_index)

    def close(self, status: str, picture: Path | None, timeout_s: float = DRAIN_SECONDS) -> None:
        """End the run and drain the queues, all together within ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        for lane in self._lanes:
            lane.end(status, picture)
        for lane in self._lanes:
            lane.wait(max(0.0, deadline - time.monotonic()))
        self._lanes = []

    def problems(self) -> list[Problem]:
        """Problems since the last call."""
        problems = []
        while True:
            try:
                problems.append(self._problems.get_nowait())
            except Empty:
                return problems


class _Lane:
    """One sink with its queue and thread."""

    def __init__(self, sink: Sink, facts: RunFacts, report: Callable[[Problem], None]) -> None:
        self._sink, self._facts, self._report = sink, facts, report
        self._queue: Queue[Callable[[], None] | None] = Queue(QUEUE_SIZE)
        self._opened = self._disabled = False
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
            self._say(f"not drained in time; {self._queue.qsize()} messages are left")
        elif self._lost and not self._disabled:
            self._say(f"{self._lost} messages failed")
        if self._dropped:
            self._say(f"{self._dropped} messages were dropped: the sink is too slow")

    def _work(self) -> None:
        self._try(lambda: None)  # opens the sink
        while (task := self._queue.get()) is not None:
            if self._disabled:
                continue
            self._lost += not self._try(task)

    def _try(self, task: Callable[[], None]) -> bool:
        try:
            if not self._opened:
                self._sink.open(self._facts)
                self._opened = True
            task()
        except BaseException as error:  # libraries raise SystemExit, too
            self._failures += 1
            logger.debug("sink %s", self._sink.name, exc_info=True)
            if self._failures == 1:
                self._say(_first_line(error))
            if self._failures == TRIES:
                self._disabled = True
                self._say(f"disabled after {TRIES} consecutive failures: {_first_line(error)}")
            return False
        self._failures = 0
        return True

    def _say(self, what: str) -> None:
        self._report(Problem(self._sink.name, what))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
