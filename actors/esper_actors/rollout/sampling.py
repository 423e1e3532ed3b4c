"""What is told of an episode while it is being played: samples, and how far it is. No Ray in here.

An episode tells all that matters at its end, and nothing of that is ever lost. What is told here is for
those who watch: it may be lost, which is counted, and nobody waits for it.
"""

import math
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.system import TelemetryConfig
from esper_ray.leyline.policy import Decision
from esper_ray.leyline.records import Record

ARRIVAL_SECONDS = 5.0
"""How long after its episode a sample may arrive."""
ON_THE_WAY = "in_transit"
CLOSED = 1024
"""Tellers that are remembered once all has been said about them."""


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """What is told of one step."""

    stream_id: str
    """Who tells: one for every time that an episode is played or gone on with."""
    before: int
    """Samples that the stream_id had told before."""
    state: Record
    """Where the step led to, as the event log will have it."""
    samples: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """How much was told of an episode that is over. It comes with the episode, so it is never lost."""

    stream_id: str
    clock: Mapping[str, int]
    """Numbers of round, episode and environment."""
    count: int
    """Samples that were told."""


Send = Callable[[SampleBatch], None]
"""Takes what is told without waiting, or loses it."""


class Sampler:
    """Samples the steps of one episode. What it is told it only reads."""

    def __init__(
        self, config: TelemetryConfig, send: Send, clock: Mapping[str, int], now: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            clock: numbers of round, episode and environment.
            now: Unix time.
        """
        self._config, self._send, self._clock, self._now = config, send, dict(clock), now
        self._stream_id, self._count = uuid.uuid4().hex, 0

    def receipt(self) -> StreamSummary:
        """How much has been told so far."""
        return StreamSummary(self._stream_id, self._clock, self._count)

    def step(
        self,
        happened: Sequence[Record],
        decision: Decision,
        seconds: Mapping[str, float],
        cuda_bytes: Mapping[str, float],
    ) -> None:
        """A step is over.

        Args:
            happened: its records for the event log; the last one tells the state that it led to.
            seconds: wall time by phase.
            cuda_bytes: memory of the process on its device.
        """
        state = self._clock | dict(happened[-1])
        step, moment = state["step"], self._now()
        asked, thought = decision.action.operation, bool(decision.op_probabilities)
        sampled = step % self._config.wait_every == 0 or self._config.level == "debug"
        samples: list[Record] = []
        if thought and (sampled or asked is not LifecycleOp.WAIT):
            samples.append(self._decision(step, moment, decision, state["slot"]))
        if sampled:
            at = {"kind": "profile", **self._clock, "step": step, "time": moment}
            samples.append(at | {"seconds": dict(seconds), "cuda_bytes": dict(cuda_bytes)})
        self._send(SampleBatch(self._stream_id, self._count, state, tuple(samples)))
        self._count += len(samples)

    def _decision(self, step: int, moment: float, decision: Decision, slot: str | None) -> Record:
        asked = decision.action.operation
        legal = {op.name: p for op, p in zip(LifecycleOp, decision.op_probabilities, strict=True) if p > 0.0}
        values = {op.name: q for op, q in zip(LifecycleOp, decision.op_values, strict=True) if op.name in legal}
        return {
            "kind": "decision",
            **self._clock,
            "step": step,
            "time": moment,
            "operation": asked.name,
            "slot": slot,
            "probability": decision.op_probabilities[asked],
            "argument_probability": math.exp(decision.log_prob_arguments),
            "operations": legal,
            "values": values,
            "value": decision.value,
        }


class SampleTracker:
    """What has arrived of every episode that is being played."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            now: seconds on any clock that runs evenly.
        """
        self._now = now
        self._known = Counter[str]()
        """Samples of each stream_id that have arrived or are known to be lost."""
        self._receipts: dict[str, tuple[StreamSummary, float]] = {}
        self._closed: deque[str] = deque(maxlen=CLOSED)

    @property
    def complete(self) -> bool:
        """Whether all has arrived of the episodes that have."""
        return all(self._known[stream_id] >= receipt.count for stream_id, (receipt, _) in self._receipts.items())

    def take(self, told: Iterable[SampleBatch]) -> Iterator[Record]:
        """States and samples of what has arrived, in order, and of kind ``samples_lost`` what is missing between."""
        for one in told:
            if one.stream_id in self._closed:  # too late: it has been counted as lost
                continue
            missing = one.before - self._known[one.stream_id]
            if missing > 0:
                yield _lost({name: one.state[name] for name in ("round", "episode", "env")}, missing)
            yield one.state
            yield from one.samples
            self._known[one.stream_id] = one.before + len(one.samples)

    def finished(self, receipt: StreamSummary) -> None:
        """An episode is there."""
        self._receipts[receipt.stream_id] = receipt, self._now()

    def settle(self, patience_s: float = ARRIVAL_SECONDS) -> Iterator[Record]:
        """What is missing of the episodes that have been there for so long."""
        limit = self._now() - patience_s if patience_s else math.inf
        for stream_id, (receipt, since) in list(self._receipts.items()):
            missing = receipt.count - self._known[stream_id]
            if missing > 0 and since > limit:
                continue
            if missing > 0:
                yield _lost(dict(receipt.clock), missing)
            del self._receipts[stream_id], self._known[stream_id]
            self._closed.append(stream_id)


def _lost(clock: dict[str, int], count: int) -> Record:
    return {"kind": "samples_lost", **clock, "time": time.time(), "count": count, "reason": ON_THE_WAY}
