"""The telemetry actor: shows metrics to the metrics agent of its node, where Prometheus finds them, and takes in
what environments tell while they play, until the driver fetches it.

Nobody waits for it. What changes is gathered until the actor has taken what it was sent before, so that
nothing piles up: gauges keep their newest value, counters their sum. An actor that dies is started again
and told all gauges; what it had not confirmed is sent once more. Samples that it held are lost with it,
which the driver notices.
"""

import threading
from collections.abc import Iterable
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge, Histogram, Metric

from esper_actors.cluster.supervisor import SupervisedActor, reason
from esper_actors.rollout.sampling import SampleBatch
from esper_ray.leyline.faults import Fault
from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.catalogue.shapes import COMMON_LABELS
from esper_ray.nissa.metrics.batch import Key, MetricsBatch
from esper_ray.nissa.metrics.projection import Change

HEARTBEAT_SECONDS = 5.0
"""Ray forgets a gauge that is not set again within about twenty seconds."""
EXPORT_SECONDS = 12.0
"""By then what an actor shows has been exported."""


TRIES = 5
"""Starts in a row that may fail before there is no telemetry actor any more."""
MAILBOX = 8192
"""Steps that wait for the driver at most."""


@ray.remote(num_cpus=0)
class TelemetryActor:
    """Shows metrics to Ray, and holds samples."""

    def __init__(self, run: str, group: str) -> None:
        self._common = dict(zip(COMMON_LABELS, (run, group), strict=True))
        self._metrics: dict[str, Metric] = {}
        self._gauges: dict[Key, float] = {}
        self._told: list[SampleBatch] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._beat, daemon=True).start()

    def ready(self) -> str:
        """The name of the node that this actor is on."""
        return str(ray.util.get_node_ip_address())

    def apply(self, batch: MetricsBatch) -> None:
        """Show what has changed."""
        with self._lock:
            self._gauges |= batch.gauges
            self._show(batch.gauges)
            for key, amount in batch.counters.items():
                if amount > 0:  # Ray refuses to count nothing
                    self._metric(key).inc(amount, self._labels(key))
            for key, value in batch.observations:
                self._metric(key).observe(value, self._labels(key))

    def take_in(self, told: SampleBatch) -> None:
        """Hold what an environment tells, if there is room."""
        if len(self._told) < MAILBOX:
            self._told.append(told)

    def hand_out(self) -> list[SampleBatch]:
        """What has been told since the last time, in order."""
        found, self._told = self._told, []
        return found

    def _beat(self) -> None:
        while not threading.Event().wait(HEARTBEAT_SECONDS):
            with self._lock:
                self._show(self._gauges)

    def _show(self, gauges: dict[Key, float]) -> None:
        for key, value in gauges.items():
            self._metric(key).set(value, self._labels(key))

    def _metric(self, key: Key) -> Any:
        name = key[0]
        if name not in self._metrics:
            declared = METRICS[name]
            labels = (*COMMON_LABELS, *declared.labels)
            if declared.type == "histogram":
                made: Metric = Histogram(name, declared.about, list(declared.buckets), labels)
            else:
                made = (Counter if declared.type == "counter" else Gauge)(name, declared.about, labels)
            self._metrics[name] = made
        return self._metrics[name]

    def _labels(self, key: Key) -> dict[str, str]:
        return self._common | dict(zip(METRICS[key[0]].labels, key[1], strict=True))


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
        self._pump(0.0)

    def told(self) -> list[SampleBatch]:
        """What the actor has been told, as far as it has arrived here."""
        self._pump(0.0)
        found: list[SampleBatch] = []
        if self._mail is not None and _is_there(self._mail, 0.0):
            mail, self._mail = self._mail, None
            found = self._result(mail) or []
        if self._mail is None and self._worker.alive:
            self._mail = self._worker.call("hand_out")
        return found

    def close(self, linger_s: float = 0.0) -> None:
        """Have the last changes shown, and end the actor.

        Args:
            linger_s: how long they are to be seen.
        """
        self._pump(10.0)
        self._pump(10.0)
        if linger_s:
            threading.Event().wait(linger_s)
        self._worker.stop()

    def _pump(self, wait_s: float) -> None:
        if self._worker.starting is not None:
            if not _is_there(self._worker.starting, wait_s):
                return
            self._welcome()
        if self._answer is not None:
            if not _is_there(self._answer, wait_s):
                return
            answer, self._answer = self._answer, None
            self._result(answer)
            self._sent = MetricsBatch()
        if self._waiting and self._worker.alive:
            self._sent, self._waiting = self._waiting, MetricsBatch()
            self._answer = self._worker.call("apply", self._sent)

    def _welcome(self) -> None:
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
