"""Counts over the records of a whole run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.metrics import GAMING

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
    gaming: Mapping[str, int] = field(default_factory=dict)
    """Charges for gaming the reward, by pattern."""
    transitions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Stage transitions by (source, target)."""
    gates_passed: Mapping[str, int] = field(default_factory=dict)
    gates_failed: Mapping[str, int] = field(default_factory=dict)
    failed_checks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Failed checks by (gate, check)."""
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

    def apply(self, record: Record) -> "Totals":
        """The counts after one more record."""
        kind, nonfinite = record["kind"], record.get("nonfinite")
        changes: dict[str, Any] = {"events": _plus(self.events, kind)}
        if nonfinite:
            changes["nonfinite"] = _plus(self.nonfinite, kind, len(nonfinite))
        counter = _COUNTERS.get(kind)
        return replace(self, **changes, **({} if counter is None else counter(self, record)))

    def with_fault(self, kind: str) -> "Totals":
        """The counts after one more fault."""
        return replace(self, faults=_plus(self.faults, kind))


def update_result(record: Record) -> str:
    """Result of an update: ``applied``, ``early_stopped`` by the KL limit, or ``nothing`` without a step."""
    if not record["optimizer_steps"]:
        return "nothing"
    return "early_stopped" if record["stopped_by_kl"] == 1.0 else "applied"


def gaming_patterns(record: Record) -> tuple[str, ...]:
    """Patterns of gaming that this step was charged for, one for each charge."""
    charges = [entry for entry in record["entries"] if entry["amount"] is not None and entry["amount"] < 0]
    return tuple(GAMING[entry["source"]] for entry in charges if entry["source"] in GAMING)


def _plus(counts: Mapping[_K, int], key: _K, amount: int = 1) -> dict[_K, int]:
    return {**counts, key: counts.get(key, 0) + amount}


def _step(totals: Totals, record: Record) -> dict[str, Any]:
    operation, gaming = record["operation"], totals.gaming
    for pattern in gaming_patterns(record):
        gaming = _plus(gaming, pattern)
    refused = totals.refused if record["success"] else _plus(totals.refused, operation)
    operations = _plus(totals.operations, operation)
    return {"steps": totals.steps + 1, "operations": operations, "refused": refused, "gaming": gaming}


def _gate(totals: Totals, record: Record) -> dict[str, Any]:
    gate, failed_checks = record["gate"], totals.failed_checks
    for check in record["checks"]:
        if not check["passed"]:
            failed_checks = _plus(failed_checks, (gate, check["name"]))
    name = "gates_passed" if record["passed"] else "gates_failed"
    return {name: _plus(getattr(totals, name), gate), "failed_checks": failed_checks}


def _anomaly(totals: Totals, record: Record) -> dict[str, Any]:
    return {"anomalies": _plus(totals.anomalies, record["type"])} if record["open"] else {}


def _outcome(totals: Totals, record: Record) -> dict[str, Any]:
    return {"episodes": _plus(totals.episodes, "rolled_back" if record["rollback"] else "finished")}


_COUNTERS: Mapping[str, Callable[[Totals, Record], dict[str, Any]]] = {
    "env_epoch": _step,
    "seed_transition": lambda totals, record: {
        "transitions": _plus(totals.transitions, (record["from"], record["to"]))
    },
    "gate": _gate,
    "veto": lambda totals, record: {"vetoes": _plus(totals.vetoes, record["reason"])},
    "rollback": lambda totals, record: {"rollbacks": _plus(totals.rollbacks, record["reason"])},
    "outcome": _outcome,
    "ppo_update": lambda totals, record: {"updates": _plus(totals.updates, update_result(record))},
    "anomaly": _anomaly,
    "samples_lost": lambda totals, record: {
        "samples_lost": _plus(totals.samples_lost, record["reason"], record["count"])
    },
    "malformed": lambda totals, record: {"malformed": totals.malformed + 1},
}
