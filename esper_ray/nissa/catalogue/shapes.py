"""Records that declare fields and kinds of events, metrics, alerts and panels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Type = Literal[
    "bool", "int", "float", "text", "ints", "floats", "texts", "floats by name", "records", "records by name"
]
"""Type of a field. ``ints``, ``floats`` and ``texts`` are lists; records have fields of their own."""
Unit = Literal[
    "", "ratio", "share", "pp", "nats", "seconds", "bytes", "steps", "rounds", "episodes", "parameters", "reward"
]
"""A ``share`` lies in [0, 1], a ``ratio`` anywhere; ``pp`` are percentage points."""
BOUNDS: Mapping[str, tuple[float, float]] = {
    "share": (0.0, 1.0),
    "pp": (-100.0, 100.0),
    **dict.fromkeys(("seconds", "bytes", "steps", "rounds", "episodes", "parameters"), (0.0, math.inf)),
}
"""Range of finite values in a unit; a value outside it is in another unit."""
SLACK = 1e-4
"""Tolerance of these bounds for rounding errors."""
DeliveryClass = Literal["evidence", "sample"]
"""Evidence is lossless and the same for equal runs. Samples may be lost, which is counted, and carry the time."""
Clock = Literal["round", "episode", "env", "step"]
"""Member of a record's logical clock. Rounds, episodes and environments count from 0; ``step`` is the number of
finished steps of the episode."""

CLOCK: tuple[Clock, ...] = ("round", "episode", "env", "step")


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a record."""

    name: str
    type: Type
    about: str
    unit: Unit = ""
    optional: bool = False
    """Whether it may be null: not measured, or absent."""
    undefined: bool = False
    """Whether it has no meaning for some records. NaN says so. It is logged as null and not counted as a fault."""
    added: bool = False
    """Whether logs written before it existed lack it. It is then as good as null."""
    fields: tuple["Field", ...] = ()
    """Fields of the inner records, for ``records`` and ``records by name``."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of event."""

    name: str
    about: str
    clock: tuple[Clock, ...]
    """Members of the clock that it carries."""
    fields: tuple[Field, ...]
    delivery: DeliveryClass = "evidence"

    @property
    def by_name(self) -> Mapping[str, Field]:
        """Its fields by name."""
        return {field.name: field for field in self.fields}


MetricType = Literal["counter", "gauge", "histogram"]
COMMON_LABELS = ("run", "group")
"""Labels of every metric."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    """Name under which it is registered with Ray."""
    type: MetricType
    about: str
    labels: tuple[str, ...] = ()
    """Labels beside run and group, with few values: never a seed, an episode or free text."""
    unit: Unit = ""
    buckets: tuple[float, ...] = ()
    """Upper bounds of the buckets of a histogram."""

    @property
    def exported(self) -> str:
        """Name in Prometheus: Ray adds the prefix ``ray_``, and so does the exporter without Ray."""
        return f"ray_{self.name}"


Severity = Literal["page", "ticket"]
"""``page``: needs attention now. ``ticket``: needs attention."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert rule for Prometheus."""

    name: str
    expression: str
    """PromQL that has a result while the condition holds."""
    wait: str
    """Time for which it must hold, as a Prometheus duration."""
    severity: Severity
    about: str
    """Meaning, and where to look."""


PanelType = Literal["timeseries", "stat", "bargauge", "heatmap", "state-timeline", "table"]


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel."""

    expression: str
    legend: str = ""
    """Name of its series; names of labels in ``{{}}``."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the dashboard."""

    title: str
    about: str
    type: PanelType
    queries: tuple[Query, ...]
    unit: str = "short"
    """Grafana's identifier of the unit."""
    width: int = 6
    """Columns of the grid, which has 24."""
    steps: tuple[tuple[float | None, str], ...] = ()
    """Thresholds: from which value on which colour."""
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Row of panels about one subject."""

    title: str
    panels: tuple[Panel, ...]
    healthy: str
    """Appearance of a healthy run."""
