"""Events of a log as one line each."""

from collections.abc import Callable, Mapping
from typing import Any

from esper_ray.karn.sanctum.text import Role, number, printable
from esper_ray.leyline.records import Record

ALARMING = ("rollback", "anomaly", "environment_quarantined", "malformed", "veto")
"""Kinds of the log that show trouble."""


def role_of(record: Record) -> Role:
    """How an event is drawn."""
    kind = record["kind"]
    if kind in ("rollback", "environment_quarantined", "malformed"):
        return "wrong"
    if kind == "anomaly":
        return "look" if record["open"] else "ok"
    if kind == "seed_transition":
        return {"FOSSILIZED": "kept", "PRUNED": "lost"}.get(record["to"], "")  # type: ignore[return-value]
    return "lost" if kind == "veto" or (kind == "gate" and not record["passed"]) else ""


def clock(record: Record) -> str:
    """Round, environment and step of an event, such as ``r8 e3 s22``. Rounds count from 1."""
    parts = [f"r{record['round'] + 1}"] if "round" in record else []
    parts += [f"e{record['env']}"] if "env" in record else []
    parts += [f"s{record['step']}"] if "step" in record else []
    return " ".join(parts)


def anomaly_name(record: Mapping[str, Any]) -> str:
    """Type and subject of an anomaly in words."""
    subject = f" {record['subject']}" if record.get("subject") else ""
    return f"{record['type'].replace('_', ' ')}{subject}"


def describe(record: Record) -> str:
    """What happened, in words."""
    describer = _DESCRIBERS.get(record["kind"])
    return printable(record["kind"].replace("_", " ") if describer is None else describer(record))


def _checks(record: Record) -> str:
    failed = [check for check in record["checks"] if not check["passed"]]
    parts = [
        f"{check['name'].replace('_', ' ')} {number(check['value'], '.3g')} < {number(check['threshold'], '.3g')}"
        for check in failed
    ]
    return "passed" if record["passed"] else f"closed: {', '.join(parts)}"


def _transition(record: Record) -> str:
    blueprint = record["blueprint"] or "unknown"
    reason = f", {record['reason']}" if record["reason"] else ""
    ticks = f"after {record['ticks']} {'step' if record['ticks'] == 1 else 'steps'} {record['from']}"
    return f"{record['slot']} {record['to']} {blueprint} by the {record['initiator']} {ticks}{reason}"


def _anomaly(record: Record) -> str:
    values = ""
    if record["value"] is not None and record["threshold"] is not None:
        values = f" ({record['value']:.3g}, threshold {record['threshold']:.3g})"
    end = f" after {record['rounds']} rounds" if not record["open"] else ""
    return f"{'began' if record['open'] else 'ended'}: {anomaly_name(record)}{values}{end}"


def _rollback(record: Record) -> str:
    values = f" ({number(record['value'], '.3g')} > {number(record['threshold'], '.3g')})"
    return f"ROLLBACK: {record['reason'].replace('_', ' ')}{values if record['value'] is not None else ''}"


def _outcome(record: Record) -> str:
    kept = ", ".join(record["fossilised"]) or "none"
    return (
        f"episode {record['episode']} ended: return {number(record['total_reward'], '+.2f')}, "
        f"accuracy {number(record['val_accuracy_pp'], '.1f')} %, fossils {kept}"
    )


def _step(record: Record) -> str:
    where = f" {record['slot']}" if record["slot"] else ""
    failed = "" if record["success"] else " without effect"
    return (
        f"{record['operation']}{where}{failed}: reward {number(record['reward'], '+.3f')}, "
        f"accuracy {number(record['val_accuracy_pp'], '.1f')} %"
    )


def _attribution(record: Record) -> str:
    values = [f"{slot['slot']} {number(slot['shapley_pp'], '+.1f', 'not measured')}" for slot in record["slots"]]
    return f"values of the seeds in pp: {', '.join(values) or 'no seed'}"


def _round(record: Record) -> str:
    accuracy = record["val_accuracy_ratio"]
    return (
        f"round ended: accuracy {number(None if accuracy is None else accuracy * 100, '.1f')} %, "
        f"return {number(record['return_mean'], '+.2f')}, growth {number(record['growth_ratio'], '.2f')}x"
    )


_DESCRIBERS: Mapping[str, Callable[[Record], str]] = {
    "run_started": lambda record: "the run started",
    "host": lambda record: f"host of {record['parameters']:,} parameters in {len(record['layers'])} layers",
    "episode_started": lambda record: (
        f"episode {record['episode']} started, seed {record['seed']}, "
        f"accuracy {number(record['val_accuracy_pp'], '.1f')} %"
    ),
    "control": lambda record: f"without growth: accuracy {number(record['val_accuracy_pp'], '.1f')} % at the end",
    "seed_transition": _transition,
    "gate": lambda record: f"{record['slot']} gate {record['gate']} {_checks(record)}",
    "veto": lambda record: (
        f"{record['slot']} germination vetoed: {record['reason']} "
        f"{number(record['value'], '.4g')} > {number(record['limit'], '.4g')}"
    ),
    "rollback": _rollback,
    "env_epoch": _step,
    "counterfactual": lambda record: (
        f"{len(record['coalitions'])} coalitions of {len(record['players'])} seeds measured"
    ),
    "attribution": _attribution,
    "outcome": _outcome,
    "environment_quarantined": lambda record: f"environment {record['env']} QUARANTINED: {record['error']}",
    "ppo_update": lambda record: (
        f"update: {record['optimizer_steps']} steps, kl {number(record['kl'], '.4f')}, "
        f"clip {number(record['clip_share'], '.2f')}, entropy {number(record['entropy'], '.2f')}"
    ),
    "round": _round,
    "anomaly": _anomaly,
    "run_finished": lambda record: "the run finished",
    "malformed": lambda record: f"MALFORMED record: {record['problem']}",
}
