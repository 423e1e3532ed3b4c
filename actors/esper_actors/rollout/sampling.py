"""Samples of running episodes: content, sending, and count of losses.

Everything that training needs comes with the finished episode and is never lost. Samples serve observers
only: the sender never waits, so some may be lost. Every stream numbers its samples and ends with a summary,
so that the tracker counts the losses exactly.
"""

import math
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.system import TelemetryConfig
from esper_ray.leyline.policy import Decision
from esper_ray.leyline.records import Record

ARRIVAL_SECONDS = 5.0
"""Longest time, in seconds, that a sample may arrive after its episode."""
ON_THE_WAY = "in_transit"
CLOSED = 1024
"""Finished streams that are kept in memory, so that late samples are not counted twice."""


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """The samples of one step."""

    stream_id: str
    """Identity of the sender: a new one whenever an episode starts or resumes."""
    before: int
    """Samples that the stream had sent before."""
    state: Record
    """The ``env_epoch`` record of the step, as the event log will have it."""
    samples: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """The number of samples of a finished episode. It is part of the episode, so it is never lost."""

    stream_id: str
    clock: Mapping[str, int]
    """Numbers of round, episode and environment."""
    count: int
    """Samples that were sent."""


Send = Callable[[SampleBatch], None]
"""Sends a batch without waiting, or drops it."""


class Sampler:
    """Sampler of the steps of one episode. It only reads what it is given."""

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

    def summary(self) -> StreamSummary:
        """The number of samples sent so far."""
        return StreamSummary(self._stream_id, self._clock, self._count)

    def step(
        self,
        records: Sequence[Record],
        decision: Decision,
        seconds: Mapping[str, float],
        cuda_bytes: Mapping[str, float],
    ) -> None:
        """Sample a finished step.

        Args:
            records: its records for the event log, the ``env_epoch`` record last.
            seconds: wall time by phase.
            cuda_bytes: memory of the process on its device.
        """
        state = self._clock | dict(records[-1])
        step, moment = state["step"], self._now()
        operation, has_probabilities = decision.action.operation, bool(decision.op_probabilities)
        sampled = step % self._config.wait_every == 0 or self._config.level == "debug"
        samples: list[Record] = []
        if has_probabilities and (sampled or operation is not LifecycleOp.WAIT):
            samples.append(self._decision(step, moment, decision, state["slot"]))
        if sampled:
            at = {"kind": "profile", **self._clock, "step": step, "time": moment}
            samples.append(at | {"seconds": dict(seconds), "cuda_bytes": dict(cuda_bytes)})
        self._send(SampleBatch(self._stream_id, self._count, state, tuple(samples)))
        self._count += len(samples)

    def _decision(self, step: int, moment: float, decision: Decision, slot: str | None) -> Record:
        operation = decision.action.operation
        legal = {op.name: p for op, p in zip(LifecycleOp, decision.op_probabilities, strict=True) if p > 0.0}
        values = {op.name: q for op, q in zip(LifecycleOp, decision.op_values, strict=True) if op.name in legal}
        return {
            "kind": "decision",
            **self._clock,
            "step": step,
            "time": moment,
            "operation": operation.name,
            "slot": slot,
            "probability": decision.op_probabilities[operation],
            "argument_probability": math.exp(decision.log_prob_arguments),
            "operations": legal,
            "values": values,
            "value": decision.value,
            "heads": {head: asdict(choice) for head, choice in decision.heads().items()},
        }


class SampleTracker:
    """Counter of the samples that have arrived, and of those that are lost, by stream."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            now: seconds on any clock that runs evenly.
        """
        self._now = now
        self._known = Counter[str]()
        """Samples of each stream that have arrived or are known to be lost."""
        self._summaries: dict[str, tuple[StreamSummary, float]] = {}
        self._closed: deque[str] = deque(maxlen=CLOSED)

    @property
    def complete(self) -> bool:
        """Whether all samples of the finished episodes have arrived."""
        return all(self._known[stream_id] >= summary.count for stream_id, (summary, _) in self._summaries.items())

    def records(self, batches: Iterable[SampleBatch]) -> Iterator[Record]:
        """States and samples of ``batches`` in order, with a ``samples_lost`` record where samples are missing."""
        for batch in batches:
            if batch.stream_id in self._closed:  # too late: it has been counted as lost
                continue
            missing = batch.before - self._known[batch.stream_id]
            if missing > 0:
                yield _lost({name: batch.state[name] for name in ("round", "episode", "env")}, missing)
            yield batch.state
            yield from batch.samples
            self._known[batch.stream_id] = batch.before + len(batch.samples)

    def finished(self, summary: StreamSummary) -> None:
        """Note that an episode has arrived."""
        self._summaries[summary.stream_id] = summary, self._now()

    def settle(self, patience_s: float = ARRIVAL_SECONDS) -> Iterator[Record]:
        """``samples_lost`` records of the episodes that arrived more than ``patience_s`` seconds ago."""
        limit = self._now() - patience_s if patience_s else math.inf
        for stream_id, (summary, since) in list(self._summaries.items()):
            missing = summary.count - self._known[stream_id]
            if missing > 0 and since > limit:
                continue
            if missing > 0:
                yield _lost(dict(summary.clock), missing)
            del self._summaries[stream_id], self._known[stream_id]
            self._closed.append(stream_id)


def _lost(clock: dict[str, int], count: int) -> Record:
    return {"kind": "samples_lost", **clock, "time": time.time(), "count": count, "reason": ON_THE_WAY}
