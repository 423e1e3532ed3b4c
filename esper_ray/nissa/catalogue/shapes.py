"""What a declaration consists of: fields and kinds of events. No behaviour in here beyond looking things up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Type = Literal["bool", "int", "float", "text", "ints", "texts", "floats by name", "records", "records by name"]
"""Of a field. ``ints`` and ``texts`` are lists; records have fields of their own; names are of slots or sources."""
Unit = Literal["", "ratio", "pp", "nats", "seconds", "bytes", "steps", "rounds", "episodes", "parameters", "reward"]
"""``pp`` are percentage points; accuracies in [0, 1] are a ``ratio``."""
Delivery = Literal["evidence", "sample"]
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
    delivery: Delivery = "evidence"

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
    """As Prometheus has it; Ray puts ``ray_`` before it."""
    type: MetricType
    about: str
    labels: tuple[str, ...] = ()
    """Beside run and group. Their values are few; never a seed, an episode or free text."""
    unit: Unit = ""
    buckets: tuple[float, ...] = ()
    """Upper limits, for a histogram."""
