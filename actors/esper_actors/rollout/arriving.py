"""Counts the samples that have not arrived. No Ray in here.

Whoever tells numbers its samples, and says with the episode how many there were. What is missing in
between is known when the next one arrives; what is missing at the end, some time after the episode has.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator

from esper_actors.rollout.sampling import Record, SampleBatch, StreamSummary

ARRIVAL_SECONDS = 5.0
"""How long after its episode a sample may arrive."""
ON_THE_WAY = "in_transit"
CLOSED = 1024
"""Tellers that are remembered once all has been said about them."""


class SampleTracker:
    """What has arrived of every episode that is being played."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            now: seconds on any clock that runs evenly.
        """
        self._now = now
        self._known = Counter[str]()
        """Samples of each teller that have arrived or are known to be lost."""
        self._receipts: dict[str, tuple[StreamSummary, float]] = {}
        self._closed: deque[str] = deque(maxlen=CLOSED)

    @property
    def complete(self) -> bool:
        """Whether all has arrived of the episodes that have."""
        return all(self._known[teller] >= receipt.count for teller, (receipt, _) in self._receipts.items())

    def take(self, told: Iterable[SampleBatch]) -> Iterator[Record]:
        """States and samples of what has arrived, in order, and of kind ``samples_lost`` what is missing between."""
        for one in told:
            if one.teller in self._closed:  # too late: it has been counted as lost
                continue
            missing = one.before - self._known[one.teller]
            if missing > 0:
                yield _lost({name: one.state[name] for name in ("round", "episode", "env")}, missing)
            yield one.state
            yield from one.samples
            self._known[one.teller] = one.before + len(one.samples)

    def finished(self, receipt: StreamSummary) -> None:
        """An episode is there."""
        self._receipts[receipt.teller] = receipt, self._now()

    def settle(self, patience_s: float = ARRIVAL_SECONDS) -> Iterator[Record]:
        """What is missing of the episodes that have been there for so long."""
        limit = self._now() - patience_s if patience_s else math.inf
        for teller, (receipt, since) in list(self._receipts.items()):
            missing = receipt.count - self._known[teller]
            if missing > 0 and since > limit:
                continue
            if missing > 0:
                yield _lost(dict(receipt.clock), missing)
            del self._receipts[teller], self._known[teller]
            self._closed.append(teller)


def _lost(clock: dict[str, int], count: int) -> Record:
    return {"kind": "samples_lost", **clock, "time": time.time(), "count": count, "reason": ON_THE_WAY}
