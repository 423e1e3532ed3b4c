"""The telemetry actor, and how environments send samples to it.

The actor exports metrics to the metrics agent of its node, where Prometheus finds them, and holds samples of
episodes in play until the driver polls them. No sender waits for it.
"""

import threading
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge, Histogram, Metric

from esper_actors.rollout.sampling import SampleBatch
from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.catalogue.shapes import COMMON_LABELS
from esper_ray.nissa.metrics.batch import Key, MetricsBatch

HEARTBEAT_SECONDS = 5.0
"""Ray forgets a gauge that is not set again within about twenty seconds."""
MAILBOX = 8192
"""Most steps that wait for the driver; later ones are dropped."""
IN_FLIGHT = 16
"""Calls that may be under way at a time; what comes then is lost."""


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

    def push(self, told: SampleBatch) -> None:
        """Hold what an environment tells, if there is room."""
        if len(self._told) < MAILBOX:
            self._told.append(told)

    def drain(self) -> list[SampleBatch]:
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


class SampleSender:
    """Sends the samples of one episode to the telemetry actor, without waiting for it.

    See :data:`~esper_actors.rollout.sampling.Send`. The driver counts the samples that do not arrive.
    """

    def __init__(self, actor: Any) -> None:
        """
        Args:
            actor: handle of a :class:`~esper_actors.cluster.telemetry_actor.TelemetryActor`, which may die.
        """
        self._actor = actor
        self._flying: list[Any] = []
        self._gone = False

    def __call__(self, told: SampleBatch) -> None:
        """Hand it over, if the actor is there and keeps up."""
        done: list[Any] = []
        if self._flying:
            done, self._flying = ray.wait(self._flying, num_returns=len(self._flying), timeout=0)
        try:
            ray.get(done)
        except RayError:
            self._gone = True
        if not self._gone and len(self._flying) < IN_FLIGHT:
            self._flying.append(self._actor.push.remote(told))
