"""Records of a run and items of its flight recorder as single lines of text."""

from collections.abc import Callable, Mapping
from typing import Any

from esper_ray.leyline.records import Record

TEXT_CHARACTERS = 300
"""Greatest length of a line; a longer one is cut."""


def record_line(record: Record) -> str:
    """One line about ``record``, whatever it lacks."""
    kind = str(record.get("kind"))
    describe = _LINES.get(kind)
    try:
        text = kind.replace("_", " ") if describe is None else describe(record)
    except (KeyError, TypeError, ValueError, AttributeError):
        text = f"{kind.replace('_', ' ')}, not as declared"
    return printable(f"{_place(record)}{text}")


def printable(text: str) -> str:
    """``text`` in one line without control characters, cut if it is long."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= TEXT_CHARACTERS else f"{line[: TEXT_CHARACTERS - 3]}..."


def _place(record: Record) -> str:
    """Clock of a record: round, environment and step, as far as it has them. Rounds count from 1."""
    parts = []
    if type(record.get("round")) is int:
        parts.append(f"r{record['round'] + 1}")
    parts += [f"{short}{record[name]}" for short, name in (("e", "env"), ("s", "step")) if name in record]
    return f"{' '.join(parts)}  " if parts else ""


def number(value: float | None, form: str = ".3g") -> str:
    """A number in ``form``, ``-`` if there is none."""
    return "-" if value is None else format(value, form)


def _where(record: Record) -> str:
    return f" {record['slot']}" if record.get("slot") else ""


def _step(record: Record) -> str:
    effect = "" if record["success"] else ", no effect"
    accuracy, reward = number(record["val_accuracy_pp"], ".1f"), number(record["reward"], "+.3f")
    return f"{record['operation']}{_where(record)}{effect}: accuracy {accuracy} %, reward {reward}"


def _transition(record: Record) -> str:
    why = f": {record['reason']}" if record["reason"] else ""
    blueprint = f" {record['blueprint']}" if record["blueprint"] else ""
    return f"{record['slot']}{blueprint} {record['from']} -> {record['to']} by the {record['initiator']}{why}"


def _gate(record: Record) -> str:
    missed = [check for check in record["checks"] if not check["passed"]]
    reasons = [f"{c['name']} {number(c['value'])}, needed {number(c['threshold'])}" for c in missed]
    verdict = "passed" if record["passed"] else f"closed: {'; '.join(reasons)}"
    return f"{record['slot']} gate {record['gate']} {verdict}"


def _rollback(record: Record) -> str:
    return f"ROLLBACK: {record['reason']} {number(record['value'])}, threshold {number(record['threshold'])}"


def _outcome(record: Record) -> str:
    end = "rolled back" if record["rollback"] else "episode over"
    accuracy, total = number(record["val_accuracy_pp"], ".1f"), number(record["total_reward"], "+.3f")
    return f"{end}: accuracy {accuracy} %, return {total}, growth {number(record['growth_ratio'], '.2f')}x"


def _update(record: Record) -> str:
    values = [f"{name.replace('_', ' ')} {number(record[name])}" for name in ("kl", "clip_share", "explained_variance")]
    return f"update of {record['optimizer_steps']} steps: {', '.join(values)}"


def _round(record: Record) -> str:
    accuracy = record["val_accuracy_ratio"]
    share = "-" if accuracy is None else f"{100.0 * accuracy:.1f}"
    return f"round over: accuracy {share} %, return {number(record['return_mean'], '+.3f')}"


def anomaly_text(record: Record) -> str:
    """Type, subject and numbers of a record of kind ``anomaly``."""
    subject = "" if record["subject"] is None else f" ({record['subject']})"
    values = ""
    if record["value"] is not None and record["threshold"] is not None:
        values = f": {number(record['value'])}, threshold {number(record['threshold'])}"
    return f"{record['type'].replace('_', ' ')}{subject}{values}"


def _anomaly(record: Record) -> str:
    after = "" if record["open"] else f" after {record['rounds']} rounds"
    return f"anomaly {'begins' if record['open'] else 'ends'}{after}: {anomaly_text(record)}"


def _decision(record: Record) -> str:
    share, q = number(record["probability"]), number(record["values"].get(record["operation"]), "+.3f")
    return f"decision {record['operation']}{_where(record)}: probability {share}, Q {q}"


def _profile(record: Record) -> str:
    seconds = [f"{name} {number(value, '.2f')} s" for name, value in record["seconds"].items()]
    return f"times: {', '.join(seconds)}"


def _fault(record: Record) -> str:
    after = "" if record["seconds"] is None else f" after {record['seconds']:.1f} s"
    return f"FAULT {record['fault'].replace('_', ' ')}{after}: {record['who']}: {record['detail']}"


_LINES: Mapping[str, Callable[[Any], str]] = {
    "episode_started": lambda r: f"episode {r['episode']} starts at {number(r['val_accuracy_pp'], '.1f')} %",
    "control": lambda r: f"without growth: accuracy {number(r['val_accuracy_pp'], '.1f')} %",
    "seed_transition": _transition,
    "gate": _gate,
    "veto": lambda r: f"germination in {r['slot']} vetoed: {r['reason']} {number(r['value'])} > {number(r['limit'])}",
    "rollback": _rollback,
    "env_epoch": _step,
    "outcome": _outcome,
    "environment_quarantined": lambda r: f"QUARANTINED: {r['error']}",
    "ppo_update": _update,
    "round": _round,
    "anomaly": _anomaly,
    "decision": _decision,
    "profile": _profile,
    "samples_lost": lambda r: f"{r['count']} samples lost: {r['reason']}",
    "malformed": lambda r: f"malformed record: {r['problem']}",
    "phase": lambda r: f"-- {r['phase']} --",
    "fault": _fault,
    "log": lambda r: f"{r['level']} {r['logger']}: {r['text']}",
    "error": lambda r: f"ERROR {r['text'].strip().rpartition(chr(10))[2]}",
}
