"""Notable events of a run: seeds that end, rollbacks, anomalies, begin and end of the run."""

from collections.abc import Sequence

from esper_ray.karn.recent import Recent
from esper_ray.leyline.records import Record

NOTABLE = (
    "run_started",
    "seed_transition",
    "rollback",
    "anomaly",
    "environment_quarantined",
    "malformed",
    "run_finished",
)
"""Kinds with notable events."""


def is_notable(record: Record) -> bool:
    """Whether the event belongs to the notable ones."""
    kind = record["kind"]
    return kind in NOTABLE and (kind != "seed_transition" or record["to"] in ("FOSSILIZED", "PRUNED"))


def newest_notable(recent: Recent, count: int) -> list[Record]:
    """The newest notable events, newest first: up to half are no ends of seeds."""
    if count <= 0:
        return []
    found = [record for kind in NOTABLE for record in recent.by_kind.get(kind, ()) if is_notable(record)]
    found.sort(key=lambda record: -int(record["seq"]))
    rare = [record for record in found if record["kind"] != "seed_transition"][: (count + 1) // 2]
    ends = [record for record in found if record["kind"] == "seed_transition"][: count - len(rare)]
    return sorted([*rare, *ends], key=lambda record: -int(record["seq"]))


def worth_at(record: Record, steps: Sequence[Record]) -> float | None:
    """Newest measured contribution of a seed before its transition, in percentage points."""
    for step in reversed(steps):
        if step["kind"] == "env_epoch" and step["episode"] == record["episode"] and step["step"] <= record["step"]:
            report = step["slots"].get(record["slot"])
            if report is not None and report["seed"] == record["seed"] and report["contribution_pp"] is not None:
                return float(report["contribution_pp"])
    return None


def lived_steps(record: Record, transitions: Sequence[Record]) -> int | None:
    """Steps from germination to this transition; ``None`` if that event is not among ``transitions``."""
    keys = ("env", "episode", "slot", "seed")
    for other in reversed(transitions):
        if other["to"] == "GERMINATED" and all(other[key] == record[key] for key in keys):
            return int(record["step"]) - int(other["step"])
    return None
