"""The driver's side of the telemetry actor: an exporter that never blocks.

Changes are gathered until the actor has confirmed the batch before, so that nothing piles up: gauges keep
their newest value, counters their sum. A dead actor is restarted with all gauges, and what it had not confirmed
is sent again. The samples that it held are lost, which the driver counts.
"""

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from esper_actors.cluster.supervisor import SupervisedActor, reason
from esper_actors.cluster.telemetry_actor import TelemetryActor
from esper_actors.rollout.sampling import SampleBatch
from esper_ray.leyline.errors import Fault
from esper_ray.nissa.metrics.batch import Key, MetricsBatch
from esper_ray.nissa.metrics.projection import Change

EXPORT_SECONDS = 12.0
"""After so long, what an actor shows has been exported."""
TRIES = 5
"""Failed starts in a row after which there is no telemetry actor any more."""


class RayExporter:
    """The driver's side: an :class:`~esper_ray.nissa.metrics.exporter.Exporter` that never blocks."""

    def __init__(self, run: str, group: str = "", before_restart: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            before_restart: called before a dead actor is restarted; raises if that cannot succeed.
        """
        self._before_restart = before_restart
        self._worker = SupervisedActor(partial(_started, run, group), f"{run}/telemetry")
        self._waiting, self._sent = MetricsBatch(), MetricsBatch()
        self._gauges: dict[Key, float] = {}
        self._answer: Any = None
        self._pending: Any = None
        self.restarts = 0
        self.faults: list[Fault] = []
        """Deaths and recoveries of the actor that have not been reported yet."""
        self._worker.start()

    @property
    def actor(self) -> Any:
        """Handle for senders of samples; ``None`` while there is no actor."""
        return self._worker.actor

    def apply(self, changes: Iterable[Change]) -> None:
        """Export changes as soon as the actor has confirmed the batch before."""
        fresh = MetricsBatch()
        fresh.add(changes)
        self._gauges |= fresh.gauges
        self._waiting = self._waiting.before(fresh)
        self._advance(0.0)

    def poll_samples(self) -> list[SampleBatch]:
        """The samples that the actor has received, as far as they have arrived here."""
        self._advance(0.0)
        batches: list[SampleBatch] = []
        if self._pending is not None and _has_arrived(self._pending, 0.0):
            pending, self._pending = self._pending, None
            batches = self._result(pending) or []
        if self._pending is None and self._worker.alive:
            self._pending = self._worker.call("drain")
        return batches

    def close(self, final_scrape_s: float = 0.0) -> None:
        """Export the last changes, and stop the actor.

        Args:
            final_scrape_s: seconds for which they stay visible.
        """
        self._advance(10.0)
        self._advance(10.0)
        if final_scrape_s:
            threading.Event().wait(final_scrape_s)
        self._worker.stop()

    def abandon(self) -> None:
        """Export nothing more, since the cluster is lost."""
        self._worker.forget()
        self._answer, self._pending = None, None

    def _advance(self, wait_s: float) -> None:
        if self._worker.starting is not None:
            if not _has_arrived(self._worker.starting, wait_s):
                return
            self._on_started()
        if self._answer is not None:
            if not _has_arrived(self._answer, wait_s):
                return
            answer, self._answer = self._answer, None
            self._result(answer)
            self._sent = MetricsBatch()
        if self._waiting and self._worker.alive:
            self._sent, self._waiting = self._waiting, MetricsBatch()
            self._answer = self._worker.call("apply", self._sent)

    def _on_started(self) -> None:
        try:
            seconds = self._worker.started()
        except RayError as error:
            self._restart(error)
        else:
            if self.restarts:
                self.faults.append(Fault("telemetry_actor_recovered", self._worker.name, "", seconds))

    def _result(self, reference: Any) -> Any:
        """The value that a call has returned; a lost actor is restarted."""
        try:
            return ray.get(reference)
        except RayError as error:
            self._restart(error)
            return None

    def _restart(self, error: RayError) -> None:
        self.restarts += 1
        self.faults.append(Fault("telemetry_actor_died", self._worker.name, reason(error)))
        lost = MetricsBatch(dict(self._gauges), self._sent.counters, self._sent.observations)
        again = MetricsBatch()
        again.add([Change("esper_telemetry_restarts_total", 1)])
        self._waiting = lost.before(self._waiting).before(again)
        self._sent, self._answer, self._pending = MetricsBatch(), None, None
        self._before_restart()
        self._worker.stop()
        if self._worker.failures < TRIES:
            self._worker.start()
        else:
            self.faults.append(Fault("telemetry_actor_abandoned", self._worker.name, reason(error)))


def _started(run: str, group: str, name: str) -> Any:
    return TelemetryActor.options(name=name).remote(run, group)  # type: ignore[attr-defined]


def _has_arrived(reference: Any, wait_s: float) -> bool:
    ready, _ = ray.wait([reference], timeout=wait_s)
    return bool(ready)
