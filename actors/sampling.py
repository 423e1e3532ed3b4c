"""What is told of an episode while it is being played: samples, and how far it is. No Ray in here.

An episode tells all that matters at its end, and nothing of that is ever lost. What is told here is for
those who watch: it may be lost, which is counted, and nobody waits for it.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.policy import Decision
from esper_ray.leyline.telemetry_config import TelemetryConfig

Record = Mapping[str, Any]
Send = Callable[[Sequence[Record]], Mapping[str, int]]
"""Takes records without waiting. Returns how many were lost, now or earlier, by reason."""


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
        self._lost: Counter[str] = Counter()

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
        told: list[Record] = [state]
        if thought and (sampled or asked is not LifecycleOp.WAIT):
            told.append(self._decision(step, moment, decision, state["slot"]))
        if sampled:
            at = {"kind": "profile", **self._clock, "step": step, "time": moment}
            told.append(at | {"seconds": dict(seconds), "cuda_bytes": dict(cuda_bytes)})
        lost = [
            {"kind": "samples_lost", **self._clock, "time": moment, "count": count, "reason": reason}
            for reason, count in self._lost.items()
        ]
        self._lost.clear()
        self._lost.update(self._send([*lost, *told]))

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
