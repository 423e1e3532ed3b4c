"""Heads and operations of the policy by round, and its newest sampled decisions."""

from collections.abc import Mapping, Sequence
from typing import Any

from esper_ray.karn.questions.tables import LogTables
from esper_ray.leyline.actions import HEADS, LifecycleOp
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS
from esper_ray.nissa.state.measures import normalized_entropy

DECISIONS = 200
"""Newest decisions that are given."""
DIAGNOSTICS = tuple(
    field.name
    for field in KINDS["ppo_update"].fields
    if not field.name.startswith(("entropy_", "choice_share_", "grad_norm_")) or field.name == "entropy_coefficient"
)
"""Numbers of an update that are about no single head."""


def policy_by_round(tables: LogTables) -> list[Record]:
    """Records of kind ``ppo_update`` and ``round``, joined by round, in order."""
    updates = {record["round"]: record for record in tables.records(("ppo_update",))}
    return [{**record, **updates.get(record["round"], {})} for record in tables.records(("round",))]


def newest_decisions(tables: LogTables, count: int = DECISIONS) -> list[Record]:
    """The newest sampled decisions, newest first."""
    newest = tables.rows(f"SELECT min(seq) AS first FROM (SELECT seq FROM decision ORDER BY seq DESC LIMIT {count})")
    first = newest[0]["first"] if newest else None
    if first is None:
        return []
    return [shown_decision(record) for record in reversed(tables.records(("decision",), f"seq >= {int(first)}"))]


def shown_decision(record: Record) -> Record:
    """A decision with null for heads that its version did not record."""
    return {**record, "heads": record.get("heads") or None}


def policy_account(rounds: Sequence[Record], decisions: Sequence[Record], choices: Mapping[str, int]) -> dict[str, Any]:
    """Heads, operations and diagnostics of these rounds.

    Args:
        rounds: see :func:`policy_by_round`.
        choices: greatest number of legal choices, by head.
    """
    return {
        "rounds": [row["round"] for row in rounds],
        "heads": {head: _head(rounds, head, choices.get(head)) for head in HEADS},
        "operations": {op.name: [row.get(f"op_{op.name.lower()}") for row in rounds] for op in LifecycleOp},
        "refused": [row.get("refused") for row in rounds],
        "diagnostics": {name: [row.get(name) for row in rounds] for name in DIAGNOSTICS},
        "decisions": list(decisions),
    }


def _head(rounds: Sequence[Record], head: str, count: int | None) -> dict[str, Any]:
    entropies = [row.get(f"entropy_{head}") for row in rounds]
    choices = {} if count is None else {head: count}
    return {
        "choices": count,
        "floor": ENTROPY_FLOORS[head],
        "entropy": entropies,
        "normalized_entropy": [normalized_entropy(row, head, choices) for row in rounds],
        "choice_share": [row.get(f"choice_share_{head}") for row in rounds],
        "grad_norm": [row.get(f"grad_norm_{head}") for row in rounds],
    }
