"""Batch of metric changes: one number for each series, however many changes there were."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.metrics.projection import Change

OBSERVATIONS = 4096
"""Histogram values that a batch holds; further ones are dropped."""
Key = tuple[str, tuple[str, ...]]
"""Metric and values of its labels."""


@dataclass(slots=True)
class MetricsBatch:
    """Changes of metrics, one number for each series."""

    gauges: dict[Key, float] = field(default_factory=dict)
    counters: dict[Key, float] = field(default_factory=dict)
    observations: list[tuple[Key, float]] = field(default_factory=list)
    dropped: int = 0

    def add(self, changes: Iterable[Change]) -> None:
        """Add changes."""
        for change in changes:
            key, kind = (change.metric, change.labels), METRICS[change.metric].type
            if kind == "gauge":
                self.gauges[key] = change.value
            elif kind == "counter":
                self.counters[key] = self.counters.get(key, 0.0) + change.value
            elif len(self.observations) < OBSERVATIONS:
                self.observations.append((key, change.value))
            else:
                self.dropped += 1

    def before(self, later: "MetricsBatch") -> "MetricsBatch":
        """This batch and a later one as one batch."""
        merged = MetricsBatch(self.gauges | later.gauges, dict(self.counters), dropped=self.dropped + later.dropped)
        for key, amount in later.counters.items():
            merged.counters[key] = merged.counters.get(key, 0.0) + amount
        merged.observations = [*self.observations, *later.observations][:OBSERVATIONS]
        return merged

    def __bool__(self) -> bool:
        return bool(self.gauges or self.counters or self.observations)
