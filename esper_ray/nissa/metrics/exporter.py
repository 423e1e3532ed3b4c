"""Exporter of metrics for Prometheus, without Ray."""

import time
from collections import deque
from collections.abc import Iterable
from threading import Event, Thread
from types import TracebackType
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.registry import Collector

from esper_ray.leyline.errors import UserError
from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.catalogue.shapes import COMMON_LABELS, Metric
from esper_ray.nissa.metrics.projection import Change
from esper_ray.nissa.metrics.server import MetricsServer


class ExporterError(UserError):
    """Metrics cannot be served on this address."""

    remedy = "Choose another port, or 0 for a free one."


class Exporter(Protocol):
    """Destination of metric changes."""

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply changes, in order."""

    def close(self) -> None:
        """Stop exporting."""


FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 2.5, 30.0


class _Scrapes(Collector):
    """Collector without metrics that records the times of scrapes."""

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=2)
        self.fresh = Event()
        """Set by a scrape."""

    def collect(self) -> Iterable[PrometheusMetric]:
        self.times.append(time.monotonic())
        self.fresh.set()
        return ()

    def patience_s(self) -> float:
        """Longest wait for the next scrape: twice the last interval, or ``FIRST_WAIT_SECONDS`` if there was none."""
        if len(self.times) < 2:
            return FIRST_WAIT_SECONDS
        return min(2.0 * (self.times[1] - self.times[0]) + 1.0, LONGEST_WAIT_SECONDS)


class PrometheusExporter:
    """HTTP server of ``/metrics`` on a port of this machine, see :class:`MetricsServer` for its limits."""

    def __init__(self, run: str, group: str, port: int, address: str = "127.0.0.1") -> None:
        """
        Args:
            port: 0 selects a free one, see :attr:`port`.

        Raises:
            ExporterError: if the port is in use.
        """
        self._common = (run, group)
        self.registry = CollectorRegistry()
        self._metrics = {name: self._registered(metric) for name, metric in METRICS.items()}
        self._scrapes = _Scrapes()
        self.registry.register(self._scrapes)
        self._scrapes.times.clear()  # registration scrapes, too
        try:
            self._server = MetricsServer(self.registry, address, port)
        except OSError as error:
            raise ExporterError(f"metrics cannot be served on {address}:{port}: {error.strerror or error}") from error
        self.port = int(self._server.server_port)
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def _registered(self, metric: Metric) -> Counter | Gauge | Histogram:
        labels = (*COMMON_LABELS, *metric.labels)
        if metric.type == "histogram":
            return Histogram(metric.exported, metric.about, labels, buckets=metric.buckets, registry=self.registry)
        metric_class = Counter if metric.type == "counter" else Gauge
        return metric_class(metric.exported, metric.about, labels, registry=self.registry)

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply changes, in order."""
        for change in changes:
            metric = self._metrics[change.metric].labels(*self._common, *change.labels)
            if isinstance(metric, Gauge):
                metric.set(change.value)
            elif isinstance(metric, Counter):
                metric.inc(change.value)
            else:
                metric.observe(change.value)

    def close(self, *, at_once: bool = False) -> None:
        """Stop serving, ``at_once`` or after a final scrape."""
        self._scrapes.fresh.clear()
        self._scrapes.fresh.wait(0.0 if at_once else self._scrapes.patience_s())
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "PrometheusExporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=kind is SystemExit)  # the second request to stop
