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
"""Ray removes a gauge that is not set again within about twenty seconds."""
MAILBOX = 8192
"""Most steps that wait for the driver; later ones are dropped."""
IN_FLIGHT = 16
"""Most calls in flight; later samples are dropped."""


@ray.remote(num_cpus=0)
class TelemetryActor:
    """Exporter of metrics on one node, and mailbox of samples."""

    def __init__(self, run: str, group: str) -> None:
        self._common = dict(zip(COMMON_LABELS, (run, group), strict=True))
        self._metrics: dict[str, Metric] = {}
        self._gauges: dict[Key, float] = {}
        self._mailbox: list[SampleBatch] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._beat, daemon=True).start()

    def ready(self) -> str:
        """The name of the node of this actor."""
        return str(ray.util.get_node_ip_address())

    def apply(self, batch: MetricsBatch) -> None:
        """Export changes."""
        with self._lock:
            self._gauges |= batch.gauges
            self._show(batch.gauges)
            for key, amount in batch.counters.items():
                if amount > 0:  # Ray refuses to count nothing
                    self._metric(key).inc(amount, self._labels(key))
            for key, value in batch.observations:
                self._metric(key).observe(value, self._labels(key))

    def push(self, batch: SampleBatch) -> None:
        """Store a batch if there is room, else drop it."""
        if len(self._mailbox) < MAILBOX:
            self._mailbox.append(batch)

    def drain(self) -> list[SampleBatch]:
        """The batches since the last call, in order."""
        batches, self._mailbox = self._mailbox, []
        return batches

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
                metric: Metric = Histogram(name, declared.about, list(declared.buckets), labels)
            else:
                metric = (Counter if declared.type == "counter" else Gauge)(name, declared.about, labels)
            self._metrics[name] = metric
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
        self._in_flight: list[Any] = []
        self._actor_lost = False

    def __call__(self, batch: SampleBatch) -> None:
        """Send a batch if the actor is alive and not behind, else drop it."""
        done: list[Any] = []
        if self._in_flight:
            done, self._in_flight = ray.wait(self._in_flight, num_returns=len(self._in_flight), timeout=0)
        try:
            ray.get(done)
        except RayError:
            self._actor_lost = True
        if not self._actor_lost and len(self._in_flight) < IN_FLIGHT:
            self._in_flight.append(self._actor.push.remote(batch))
