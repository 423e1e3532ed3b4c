"""What a declaration consists of: fields and kinds of events. No behaviour in here beyond looking things up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Type = Literal[
    "bool", "int", "float", "text", "ints", "floats", "texts", "floats by name", "records", "records by name"
]
"""Of a field. ``ints``, ``floats`` and ``texts`` are lists; records have fields of their own."""
Unit = Literal[
    "", "ratio", "share", "pp", "nats", "seconds", "bytes", "steps", "rounds", "episodes", "parameters", "reward"
]
"""A ``share`` lies in [0, 1], a ``ratio`` anywhere; ``pp`` are percentage points."""
BOUNDS: Mapping[str, tuple[float, float]] = {
    "share": (0.0, 1.0),
    "pp": (-100.0, 100.0),
    **dict.fromkeys(("seconds", "bytes", "steps", "rounds", "episodes", "parameters"), (0.0, math.inf)),
}
"""What a finite value in a unit can be at all; beyond it, it is in another unit."""
SLACK = 1e-4
"""By which arithmetic may go beyond."""
DeliveryClass = Literal["evidence", "sample"]
"""Evidence is never lost, and the same for equal runs. Samples may be lost, which is counted, and know the time."""
Clock = Literal["round", "episode", "env", "step"]
"""By what a record's time is told. Rounds, episodes, environments count from 0; ``step``: how many of the episode's
steps are done."""

CLOCK: tuple[Clock, ...] = ("round", "episode", "env", "step")


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a record."""

    name: str
    type: Type
    about: str
    unit: Unit = ""
    optional: bool = False
    """Whether it may be null: not measured, or there is none."""
    fields: tuple["Field", ...] = ()
    """Of the records inside, for ``records`` and ``records by name``."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of event."""

    name: str
    about: str
    clock: tuple[Clock, ...]
    """Which members of the clock it carries."""
    fields: tuple[Field, ...]
    delivery: DeliveryClass = "evidence"

    @property
    def by_name(self) -> Mapping[str, Field]:
        """Its fields."""
        return {field.name: field for field in self.fields}


MetricType = Literal["counter", "gauge", "histogram"]
COMMON_LABELS = ("run", "group")
"""Every metric has them."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that is followed over time."""

    name: str
    """As it is registered with Ray."""
    type: MetricType
    about: str
    labels: tuple[str, ...] = ()
    """Beside run and group. Their values are few; never a seed, an episode or free text."""
    unit: Unit = ""
    buckets: tuple[float, ...] = ()
    """Upper limits, for a histogram."""

    @property
    def exported(self) -> str:
        """As Prometheus has it: Ray puts ``ray_`` before every name, and we do so without Ray too."""
        return f"ray_{self.name}"


Severity = Literal["page", "ticket"]
"""``page``: somebody should look now. ``ticket``: somebody should look."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule for Prometheus."""

    name: str
    expression: str
    """PromQL that has a result while something is wrong."""
    wait: str
    """How long it must have one, as Prometheus writes durations."""
    severity: Severity
    about: str
    """What it means and where to look."""


PanelType = Literal["timeseries", "stat", "bargauge", "heatmap", "state-timeline", "table"]


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel."""

    expression: str
    legend: str = ""
    """What its series are called; names of labels in ``{{}}``."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of the dashboard."""

    title: str
    about: str
    type: PanelType
    queries: tuple[Query, ...]
    unit: str = "short"
    """As Grafana calls it."""
    width: int = 6
    """Of 24."""
    steps: tuple[tuple[float | None, str], ...] = ()
    """Colours from which value on, where colours mean something."""
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]
    healthy: str
    """How it looks when all is well."""
