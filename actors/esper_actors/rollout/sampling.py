"""Samples of unfinished episodes: sender, batches, and the accounting of lost samples.

The event log receives every finished episode complete. Samples are for display only: they may be dropped, drops are
counted, and no process waits for them.
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
"""Number of closed streams that are remembered, so that late samples of them are dropped."""


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """The state and the samples of one step."""

    stream_id: str
    """Id of the stream; every start and every resume of an episode opens a new batch."""
    before: int
    """Samples that the stream had sent before this batch."""
    state: Record
    """The state after the step, as in the event log."""
    samples: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """The number of samples of a finished episode. It travels with the episode and is never lost."""

    stream_id: str
    ids: Mapping[str, int]
    """Numbers of round, episode and environment."""
    count: int
    """Samples that were sent."""


Send = Callable[[SampleBatch], None]
"""Sends a batch without waiting, or drops it."""


class Sampler:
    """The sampler of one episode. It never changes the records that it reads."""

    def __init__(
        self, config: TelemetryConfig, send: Send, ids: Mapping[str, int], now: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            ids: numbers of round, episode and environment.
            now: Unix time.
        """
        self._config, self._send, self._ids, self._now = config, send, dict(ids), now
        self._stream_id, self._count = uuid.uuid4().hex, 0

    def summary(self) -> StreamSummary:
        """Number of samples sent so far."""
        return StreamSummary(self._stream_id, self._ids, self._count)

    def step(
        self,
        records: Sequence[Record],
        decision: Decision,
        seconds: Mapping[str, float],
        cuda_bytes: Mapping[str, float],
    ) -> None:
        """Sample one finished step.

        Args:
            records: its event records; the last one holds the state after the step.
            seconds: wall time by phase.
            cuda_bytes: memory of the process on its device.
        """
        state = self._ids | dict(records[-1])
        step, moment = state["step"], self._now()
        operation, has_probabilities = decision.action.operation, bool(decision.op_probabilities)
        sampled = step % self._config.wait_every == 0 or self._config.level == "debug"
        samples: list[Record] = []
        if has_probabilities and (sampled or operation is not LifecycleOp.WAIT):
            samples.append(self._decision(step, moment, decision, state["slot"]))
        if sampled:
            at = {"kind": "profile", **self._ids, "step": step, "time": moment}
            samples.append(at | {"seconds": dict(seconds), "cuda_bytes": dict(cuda_bytes)})
        self._send(SampleBatch(self._stream_id, self._count, state, tuple(samples)))
        self._count += len(samples)

    def _decision(self, step: int, moment: float, decision: Decision, slot: str | None) -> Record:
        operation = decision.action.operation
        legal = {op.name: p for op, p in zip(LifecycleOp, decision.op_probabilities, strict=True) if p > 0.0}
        values = {op.name: q for op, q in zip(LifecycleOp, decision.op_values, strict=True) if op.name in legal}
        return {
            "kind": "decision",
            **self._ids,
            "step": step,
            "time": moment,
            "operation": operation.name,
            "slot": slot,
            "probability": decision.op_probabilities[operation],
            "argument_probability": math.exp(decision.log_prob_arguments),
            "operations": legal,
            "values": values,
            "value": decision.value,
        }


class SampleTracker:
    """The count of received and lost samples of every open stream."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            now: seconds of a monotonic clock.
        """
        self._now = now
        self._received = Counter[str]()
        """Samples of each stream that have arrived or were counted as lost."""
        self._summaries: dict[str, tuple[StreamSummary, float]] = {}
        self._closed: deque[str] = deque(maxlen=CLOSED)

    @property
    def complete(self) -> bool:
        """Whether all samples of all finished episodes have arrived."""
        return all(self._received[stream_id] >= summary.count for stream_id, (summary, _) in self._summaries.items())

    def receive(self, batches: Iterable[SampleBatch]) -> Iterator[Record]:
        """States and samples of ``batches`` in order, with a ``samples_lost`` record for every gap."""
        for batch in batches:
            if batch.stream_id in self._closed:  # late: it was counted as lost
                continue
            missing = batch.before - self._received[batch.stream_id]
            if missing > 0:
                yield _lost({name: batch.state[name] for name in ("round", "episode", "env")}, missing)
            yield batch.state
            yield from batch.samples
            self._received[batch.stream_id] = batch.before + len(batch.samples)

    def finished(self, summary: StreamSummary) -> None:
        """Note that an episode has finished and how many samples it sent."""
        self._summaries[summary.stream_id] = summary, self._now()

    def settle(self, patience_s: float = ARRIVAL_SECONDS) -> Iterator[Record]:
        """``samples_lost`` records of episodes that finished at least ``patience_s`` seconds ago; 0: of all."""
        limit = self._now() - patience_s if patience_s else math.inf
        for stream_id, (summary, since) in list(self._summaries.items()):
            missing = summary.count - self._received[stream_id]
            if missing > 0 and since > limit:
                continue
            if missing > 0:
                yield _lost(dict(summary.ids), missing)
            del self._summaries[stream_id], self._received[stream_id]
            self._closed.append(stream_id)


def _lost(ids: dict[str, int], count: int) -> Record:
    return {"kind": "samples_lost", **ids, "time": time.time(), "count": count, "reason": ON_THE_WAY}
