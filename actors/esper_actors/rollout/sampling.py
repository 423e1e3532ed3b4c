"""What is told of an episode while it is being played: samples, and how far it is. No Ray in here.

An episode tells all that matters at its end, and nothing of that is ever lost. What is told here is for
those who watch: it may be lost, which is counted, and nobody waits for it.
"""

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.system import TelemetryConfig
from esper_ray.leyline.policy import Decision

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """What is told of one step."""

    teller: str
    """Who tells: one for every time that an episode is played or gone on with."""
    before: int
    """Samples that the teller had told before."""
    state: Record
    """Where the step led to, as the event log will have it."""
    samples: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """How much was told of an episode that is over. It comes with the episode, so it is never lost."""

    teller: str
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
        self._teller, self._count = uuid.uuid4().hex, 0

    def receipt(self) -> StreamSummary:
        """How much has been told so far."""
        return StreamSummary(self._teller, self._clock, self._count)

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
        self._send(SampleBatch(self._teller, self._count, state, tuple(samples)))
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
