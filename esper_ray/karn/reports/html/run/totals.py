"""Sections of the report of a run from its counts: reward by source, operations, gates."""

from esper_ray.karn.reports.html.elements import Markup, joined, paragraph, table
from esper_ray.karn.reports.html.numbers import percent
from esper_ray.karn.reports.html.run.content import RunContent
from esper_ray.karn.reports.html.run.sections import LONGEST_BAR, bar


def rewards(content: RunContent) -> Markup:
    """Reward of the whole run by source, per step."""
    totals = content.state.totals
    if not totals.reward_by_source or not totals.steps:
        return paragraph("No reward was paid.")
    ranked = sorted(totals.reward_by_source.items(), key=lambda item: (-abs(item[1]), item[0]))
    scale = LONGEST_BAR / max(1e-9, *(abs(amount) for _, amount in ranked))
    rows = [
        (source, f"{amount:+.2f}", f"{amount / totals.steps:+.4f}", bar(amount * scale)) for source, amount in ranked
    ]
    total = sum(totals.reward_by_source.values())
    rows.append(("all", f"{total:+.2f}", f"{total / totals.steps:+.4f}", Markup()))
    note = f"Of {totals.steps:,} steps. A broken outline is below zero. `esper explain` names cause and reason of each."
    return joined((table(("source", "sum", "per step", "share"), rows), paragraph(note, class_="soft")))


def decisions(content: RunContent) -> Markup:
    """Operations of all steps, and what the gates answered."""
    totals = content.state.totals
    if not totals.steps:
        return paragraph("No step was played.")
    operations = [
        (name, f"{count:,}", percent(count / totals.steps, 1), f"{totals.refused.get(name, 0):,}")
        for name, count in sorted(totals.operations.items(), key=lambda item: (-item[1], item[0]))
    ]
    parts = [table(("operation", "steps", "share", "without effect"), operations)]
    names = sorted(totals.gates_passed.keys() | totals.gates_failed.keys())
    gates = []
    for name in names:
        checks = sorted(totals.failed_checks.get(name, {}).items(), key=lambda item: (-item[1], item[0]))
        failed = ", ".join(f"{check.replace('_', ' ')} {count:,}" for check, count in checks) or "-"
        gates.append((name, f"{totals.gates_passed.get(name, 0):,}", f"{totals.gates_failed.get(name, 0):,}", failed))
    if gates:
        parts.append(table(("gate", "passed", "refused", "failed checks"), gates))
    return joined(parts)
