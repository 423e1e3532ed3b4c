"""The driver's side of the telemetry actor: an exporter that never blocks.

Changes are gathered until the actor has confirmed the batch before, so that nothing piles up: gauges keep
their newest value, counters their sum. A dead actor is restarted with all gauges, and what it had not confirmed
is sent again. The samples that it held are lost, which the driver counts.
"""

import threading
from collections.abc import Iterable
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

    def __init__(self, run: str, group: str = "") -> None:
        self._worker = SupervisedActor(partial(_started, run, group), f"{run}/telemetry")
        self._waiting, self._sent = MetricsBatch(), MetricsBatch()
        self._gauges: dict[Key, float] = {}
        self._answer: Any = None
        self._mail: Any = None
        self.restarts = 0
        self.faults: list[Fault] = []
        """Deaths of the actor, and when another one worked in its place; for whoever takes them."""
        self._worker.start()

    @property
    def actor(self) -> Any:
        """Handle for those who send samples; ``None`` while there is no actor."""
        return self._worker.actor

    def apply(self, changes: Iterable[Change]) -> None:
        """Show what has changed, as soon as the actor has taken what came before."""
        fresh = MetricsBatch()
        fresh.add(changes)
        self._gauges |= fresh.gauges
        self._waiting = self._waiting.before(fresh)
        self._advance(0.0)

    def poll_samples(self) -> list[SampleBatch]:
        """The samples that the actor has received, as far as they have arrived here."""
        self._advance(0.0)
        found: list[SampleBatch] = []
        if self._mail is not None and _is_there(self._mail, 0.0):
            mail, self._mail = self._mail, None
            found = self._result(mail) or []
        if self._mail is None and self._worker.alive:
            self._mail = self._worker.call("drain")
        return found

    def close(self, final_scrape_s: float = 0.0) -> None:
        """Have the last changes shown, and end the actor.

        Args:
            final_scrape_s: how long they are to be seen.
        """
        self._advance(10.0)
        self._advance(10.0)
        if final_scrape_s:
            threading.Event().wait(final_scrape_s)
        self._worker.stop()

    def _advance(self, wait_s: float) -> None:
        if self._worker.starting is not None:
            if not _is_there(self._worker.starting, wait_s):
                return
            self._on_started()
        if self._answer is not None:
            if not _is_there(self._answer, wait_s):
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
            self._begin_again(error)
        else:
            if self.restarts:
                self.faults.append(Fault("telemetry_actor_recovered", self._worker.name, "", seconds))

    def _result(self, reference: Any) -> Any:
        """What a call has returned; if the actor is gone another one is started."""
        try:
            return ray.get(reference)
        except RayError as error:
            self._begin_again(error)
            return None

    def _begin_again(self, error: RayError) -> None:
        self.restarts += 1
        self.faults.append(Fault("telemetry_actor_died", self._worker.name, reason(error)))
        lost = MetricsBatch(dict(self._gauges), self._sent.counters, self._sent.observations)
        again = MetricsBatch()
        again.add([Change("esper_telemetry_restarts_total", 1)])
        self._waiting = lost.before(self._waiting).before(again)
        self._sent, self._answer, self._mail = MetricsBatch(), None, None
        self._worker.stop()
        if self._worker.failures < TRIES:
            self._worker.start()
        else:
            self.faults.append(Fault("telemetry_actor_given_up", self._worker.name, reason(error)))


def _started(run: str, group: str, name: str) -> Any:
    return TelemetryActor.options(name=name).remote(run, group)  # type: ignore[attr-defined]


def _is_there(reference: Any, wait_s: float) -> bool:
    ready, _ = ray.wait([reference], timeout=wait_s)
    return bool(ready)
