"""Counts over the records of a whole run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from esper_ray.leyline.records import Record
from esper_ray.nissa.state.measures import gaming_pattern

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of a run, by the names that its records carry."""

    events: Mapping[str, int] = field(default_factory=dict)
    """Records by kind, samples included."""
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    """Numbers that were not finite, by kind of record."""
    steps: int = 0
    operations: Mapping[str, int] = field(default_factory=dict)
    """Steps by operation, those without effect included."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Steps without effect, by operation."""
    reward_by_source: Mapping[str, float] = field(default_factory=dict)
    """Reward by component. Amounts that were not finite are left out; ``nonfinite`` counts them."""
    gaming: Mapping[str, int] = field(default_factory=dict)
    """Charges for gaming the reward, by pattern."""
    transitions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Stage transitions by source and target."""
    gates_passed: Mapping[str, int] = field(default_factory=dict)
    gates_failed: Mapping[str, int] = field(default_factory=dict)
    failed_checks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Failed checks by gate and check."""
    vetoes: Mapping[str, int] = field(default_factory=dict)
    """Vetoes by reason."""
    rollbacks: Mapping[str, int] = field(default_factory=dict)
    """Rollbacks by reason."""
    episodes: Mapping[str, int] = field(default_factory=dict)
    """Episodes by how they ended: ``finished`` or ``rolled_back``."""
    updates: Mapping[str, int] = field(default_factory=dict)
    """Updates of the learner by result, see :func:`update_result`."""
    anomalies: Mapping[str, int] = field(default_factory=dict)
    """Anomalies that have begun, by type."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """Faults by kind."""
    samples_lost: Mapping[str, int] = field(default_factory=dict)
    """Lost samples by reason."""
    malformed: int = 0

    def merged(self, later: "Totals") -> "Totals":
        """The counts of these records and of ``later`` ones."""
        return Totals(**{name: _sum(getattr(self, name), getattr(later, name)) for name in Totals.__slots__})

    def with_fault(self, kind: str) -> "Totals":
        """The counts after one more fault."""
        return replace(self, faults=_plus(self.faults, kind))


def update_result(record: Record) -> str:
    """Result of an update: ``applied``, ``early_stopped`` by the KL limit, or ``nothing`` without a step."""
    if not record["optimizer_steps"]:
        return "nothing"
    return "early_stopped" if record["stopped_by_kl"] == 1.0 else "applied"


def _plus(counts: Mapping[_K, int], key: _K, amount: int = 1) -> dict[_K, int]:
    return {**counts, key: counts.get(key, 0) + amount}


def _plus_within(counts: Mapping[str, Mapping[str, int]], key: str, inner: str) -> dict[str, Mapping[str, int]]:
    return {**counts, key: _plus(counts.get(key, {}), inner)}


def _sum(first: Any, second: Any) -> Any:
    if isinstance(first, Mapping):
        return {**first, **{k: _sum(first[k], value) if k in first else value for k, value in second.items()}}
    return first + second


class TotalsFold:
    """The counts while records are folded. It changes in place, and only the fold of the run sees it."""

    def __init__(self, before: Totals) -> None:
        counts = {name: value for name in Totals.__slots__ if isinstance(value := getattr(before, name), Mapping)}
        self._counts: dict[str, dict[str, Any]] = {name: dict(value) for name, value in counts.items()}
        self._rewards: dict[str, float] = self._counts["reward_by_source"]
        self._events, self._operations = self._counts["events"], self._counts["operations"]
        self._steps, self._malformed = before.steps, before.malformed
        self.round_rewards: dict[str, float] = {}
        """Rewards by source of the open round, to which steps add as well."""

    def add(self, record: Record) -> None:
        """Count one more record."""
        kind = record["kind"]
        self._events[kind] = self._events.get(kind, 0) + 1
        if nonfinite := record.get("nonfinite"):
            self.plus("nonfinite", kind, len(nonfinite))
        counter = _COUNTERS.get(kind)
        if counter is not None:
            counter(self, record)

    def state(self) -> Totals:
        """The counts."""
        return Totals(**self._counts, steps=self._steps, malformed=self._malformed)

    def plus(self, name: str, key: str, amount: int = 1) -> None:
        counts = self._counts[name]
        counts[key] = counts.get(key, 0) + amount

    def _plus_within(self, name: str, key: str, inner: str) -> None:
        counts = self._counts[name]
        counts[key] = _plus(counts.get(key, {}), inner)

    def step(self, record: Record) -> None:
        self._steps += 1
        operation = record["operation"]
        self._operations[operation] = self._operations.get(operation, 0) + 1
        if not record["success"]:
            self.plus("refused", operation)
        tally = self.round_rewards
        rewards = self._rewards
        for entry in record["entries"]:
            source, amount = entry["source"], entry["amount"]
            if amount is not None:
                rewards[source] = rewards.get(source, 0.0) + amount
                tally[source] = tally.get(source, 0.0) + amount
                if amount < 0 and (pattern := gaming_pattern(entry)) is not None:
                    self.plus("gaming", pattern)

    def gate(self, record: Record) -> None:
        gate = record["gate"]
        for check in record["checks"]:
            if not check["passed"]:
                self._plus_within("failed_checks", gate, check["name"])
        self.plus("gates_passed" if record["passed"] else "gates_failed", gate)

    def transition(self, record: Record) -> None:
        self._plus_within("transitions", record["from"], record["to"])

    def anomaly(self, record: Record) -> None:
        if record["open"]:
            self.plus("anomalies", record["type"])

    def malformed(self, record: Record) -> None:
        self._malformed += 1


_COUNTERS: Mapping[str, Callable[[TotalsFold, Record], None]] = {
    "env_epoch": TotalsFold.step,
    "seed_transition": TotalsFold.transition,
    "gate": TotalsFold.gate,
    "veto": lambda totals, record: totals.plus("vetoes", record["reason"]),
    "rollback": lambda totals, record: totals.plus("rollbacks", record["reason"]),
    "outcome": lambda totals, record: totals.plus("episodes", "rolled_back" if record["rollback"] else "finished"),
    "ppo_update": lambda totals, record: totals.plus("updates", update_result(record)),
    "anomaly": TotalsFold.anomaly,
    "samples_lost": lambda totals, record: totals.plus("samples_lost", record["reason"], record["count"]),
    "malformed": TotalsFold.malformed,
}
