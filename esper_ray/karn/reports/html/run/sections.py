"""Sections of the report of a run: blueprints, what went wrong, evidence, configuration, repetition."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from esper_ray.karn.record_lines import anomaly_text
from esper_ray.karn.reports.html.elements import Content, Markup, code, details, joined, paragraph, table, tag
from esper_ray.karn.reports.html.numbers import NOT_MEASURED, NOT_RECORDED, counted, percent, shown
from esper_ray.karn.reports.html.run.content import RunContent
from esper_ray.karn.reports.html.style import DASHES
from esper_ray.leyline.config.documents import dump_yaml
from esper_ray.leyline.config.loading import preset_names, read_preset
from esper_ray.leyline.config.run import flatten
from esper_ray.leyline.records import Record

SECTION_ROWS = 500
"""Rows of a list; of a longer one, the first are shown."""
LONGEST_BAR = 160.0
"""Width of the longest bar."""


def listing(
    headings: Sequence[Content], rows: Sequence[Sequence[Content]], command: str, numbers_from: int = 99
) -> Markup:
    """A table of at most ``SECTION_ROWS`` rows, with the command that prints the others."""
    shown_rows = table(headings, rows[:SECTION_ROWS], numbers_from=numbers_from)
    if len(rows) <= SECTION_ROWS:
        return shown_rows
    rest = paragraph(f"The first {SECTION_ROWS} of {len(rows):,}; ", code(command), " prints all.", class_="soft")
    return joined((shown_rows, rest))


def blueprints(content: RunContent) -> Markup:
    """Seeds that ended, by blueprint, with their mean contribution."""
    records = content.state.blueprints
    if not records:
        return paragraph("No seed was fossilized or pruned.")
    means = [record.contribution_pp for record in records.values() if record.contribution_pp is not None]
    scale = LONGEST_BAR / max([1e-9, *map(abs, means)])
    ranked = sorted(records.items(), key=lambda item: (-item[1].fossilized, item[0]))
    rows = []
    for name, record in ranked:
        mean, ended = record.contribution_pp, record.fossilized + record.pruned
        text = NOT_MEASURED if mean is None else f"{mean:+.2f}"
        if record.contribution_error_pp is not None:
            text += f" ± {record.contribution_error_pp:.2f}"
        cells = (str(record.fossilized), str(record.pruned), percent(record.fossilized / ended, 0), text)
        rows.append((name, *cells, str(record.measured), Markup() if mean is None else bar(mean * scale)))
    headings = ("blueprint", "fossilized", "pruned", "share kept", "mean contribution, points", "n", "contribution")
    note = (
        "The contribution of a seed is the validation accuracy with it minus without it, the newest measurement before "
        "it was fossilized, with the standard error of the mean. A seed that was never fossilized or pruned is not in "
        "the table."
    )
    return joined((table(headings, rows), paragraph(note, class_="soft")))


def bar(width: float) -> Markup:
    """A bar; one below zero is outlined with a broken line."""
    dash = DASHES[2] if width < 0 else None
    fill = "none" if width < 0 else "var(--c1)"
    box = tag(
        "rect", x=0.5, y=2, width=max(1.0, abs(width)), height=10, fill=fill, stroke="var(--c1)", stroke_dasharray=dash
    )
    return tag("svg", box, width=LONGEST_BAR + 1, height=14, aria_hidden="true")


def troubles(content: RunContent) -> Markup:
    """Every rollback, anomaly, quarantined environment and fault."""
    parts = [
        tag("h3", "Rollbacks"),
        _rollbacks(content),
        tag("h3", "Anomalies"),
        _anomalies(content.listed["anomaly"], content.run_id),
        tag("h3", "Quarantined environments"),
        _quarantined(content.listed["environment_quarantined"], content.run_id),
        tag("h3", "Faults of processes and places"),
        _faults(content),
    ]
    return joined(parts)


def _rollbacks(content: RunContent) -> Markup:
    records = content.listed["rollback"]
    if not records:
        return paragraph("None: the governor ended no episode.")
    reasons = Counter(record["reason"] for record in records)
    words = ", ".join(
        f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    )
    rows = [
        (
            str(record["round"] + 1),
            str(record["episode"]),
            str(record["env"]),
            str(record["step"]),
            record["reason"],
            shown(record["value"]),
            shown(record["threshold"]),
        )
        for record in records
    ]
    headings = ("round", "episode", "environment", "step", "vital sign", "value", "threshold")
    command = f"esper events {content.run_id} --kind rollback --limit 0"
    lines = details(counted(len(records), "rollback"), listing(headings, rows, command))
    return joined((paragraph(f"The governor ended {counted(len(records), 'episode')}: {words}."), lines))


def _anomalies(records: Sequence[Record], run_id: str) -> Markup:
    if not records:
        return paragraph("None.")
    rows = [
        (
            str(record["round"] + 1),
            "begins" if record["open"] else f"ends after {counted(record['rounds'], 'round')}",
            anomaly_text(record),
        )
        for record in records
    ]
    return listing(("round", "begins or ends", "anomaly"), rows, f"esper events {run_id} --kind anomaly --limit 0")


def _quarantined(records: Sequence[Record], run_id: str) -> Markup:
    if not records:
        return paragraph("None.")
    rows = [(str(record["round"] + 1), str(record["env"]), record["error"]) for record in records]
    command = f"esper events {run_id} --kind environment_quarantined --limit 0"
    return listing(("round", "environment", "last error"), rows, command)


def _faults(content: RunContent) -> Markup:
    if not content.faults:
        return paragraph("None.")
    rows = [
        (
            "-" if type(index) is not int else str(index + 1),
            fault.kind.replace("_", " "),
            fault.who,
            fault.detail,
            "-" if fault.seconds is None else f"{fault.seconds:.1f} s",
        )
        for index, fault in content.faults
    ]
    return listing(("round", "fault", "where", "detail", "duration"), rows, "the file faults.jsonl of the run")


def evidence(content: RunContent) -> Markup:
    """Whether every event of the run is there and undamaged."""
    totals = content.state.totals
    problems = [*content.problems]
    if totals.malformed:
        problems.append(f"{counted(totals.malformed, 'record')} did not match the declaration of its kind")
    counts = content.integrity
    if counts is not None and counts.get("complete") is not True and not problems:
        problems.append("the counts in integrity.json say that the log is not complete")
    if problems:
        lead = paragraph(tag("b", "The evidence is not whole. "), "What follows from this report holds for the rest.")
        body = tag("ul", *(tag("li", problem) for problem in problems[:SECTION_ROWS]))
    elif counts is None:
        lead = paragraph(
            "Nothing is missing or damaged so far. A run that has not finished has no counts to compare with."
        )
        body = Markup()
    else:
        lead = paragraph("The evidence is whole: no event is missing, none is damaged, every digest is right.")
        body = Markup()
    lost = sum(totals.samples_lost.values())
    events = sum(totals.events.values())
    sentence = f"The log has {counted(events, 'event')}, numbered without gaps."
    if problems:
        sentence = f"The log has {counted(events, 'readable event')}."
    samples = counts.get("samples") if counts is not None else None
    if isinstance(samples, int):
        gone = counts.get("lost") if counts is not None else lost
        sentence += f" Of samples, which may be lost, it has {samples:,}; {gone} are known to be lost."
    rows = [(kind, f"{count:,}") for kind, count in sorted(totals.events.items())]
    nonfinite = sum(totals.nonfinite.values())
    sentence += f" {counted(nonfinite, 'number')} in it {'was' if nonfinite == 1 else 'were'} not finite."
    return joined((lead, body, paragraph(sentence), details("Events by kind", table(("kind", "events"), rows))))


def configuration(content: RunContent) -> Markup:
    """What differs from the preset of the same name, and the whole configuration."""
    tree = content.config.model_dump(mode="json")
    name = str(tree["name"])
    whole = details("The whole configuration", tag("pre", dump_yaml(tree)))
    if name not in preset_names():
        lead = paragraph("This version ships no preset ", code(name), ", so there is nothing to compare with.")
        return joined((lead, whole))
    rows = differences(flatten(tree), flatten(read_preset(name)))
    if not rows:
        return joined((paragraph("It is the preset ", code(name), " as it is."), whole))
    lead = paragraph(f"It differs from the preset {name} in {counted(len(rows), 'key')}.")
    return joined((lead, table(("key", "run", "preset"), rows, numbers_from=99), whole))


def differences(run: Mapping[str, Any], preset: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Every key in which run and preset differ, with both values."""
    keys = [*run, *(key for key in preset if key not in run)]
    different = (key for key in keys if key not in run or key not in preset or run[key] != preset[key])
    return [(key, str(run.get(key, "absent")), str(preset.get(key, "absent"))) for key in different]


def repetition(content: RunContent) -> Markup:
    """Command, seed, versions and digests."""
    manifest, state = content.manifest, content.state
    versions, git = manifest.get("versions"), manifest.get("git")
    rows: list[tuple[str, Content]] = [
        ("seed", str(content.config.seed)),
        ("configuration, SHA-256", _text(manifest.get("config_sha256"))),
        ("policy at the end, SHA-256", state.policy_sha256 or "the run has not finished"),
        ("observation schema", _text(manifest.get("observation_schema"))),
        ("versions", _pairs(versions)),
        ("code", _code(git)),
        ("hardware", _pairs(manifest.get("hardware"))),
        ("started", _text(manifest.get("started"))),
        ("duration", duration(state.timings)),
    ]
    lineage = manifest.get("lineage")
    if isinstance(lineage, Mapping):
        rows.append(("continued from", _pairs(lineage)))
    rows += [("extended", _pairs(extension)) for extension in manifest.get("extensions") or ()]
    note = (
        "On a CPU the same command with the same versions gives the same weights, rewards and events to the last bit, "
        "on one process or many. esper replay plays one episode again and compares it with the log."
    )
    command = tag("pre", command_line(manifest.get("command")))
    return joined((command, paragraph(note), table(("what", "value"), rows, numbers_from=99)))


def command_line(words: Any) -> str:
    """The command of a manifest, without the folder of the program."""
    if not isinstance(words, Sequence) or isinstance(words, str) or not words:
        return NOT_RECORDED
    program, *arguments = map(str, words)
    path = PurePath(program)
    call = ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]
    return shlex.join([*call, *arguments])


def duration(timings: Sequence[Mapping[str, float]]) -> str:
    """Time of playing and of learning, over all rounds."""
    if not timings:
        return NOT_MEASURED
    play = sum(row.get("play_seconds", 0.0) for row in timings)
    update = sum(row.get("update_seconds", 0.0) for row in timings)
    return f"{play:,.0f} s of playing and {update:,.0f} s of learning in {counted(len(timings), 'round')}"


def _text(value: Any) -> str:
    return NOT_RECORDED if value in (None, "") else str(value)


def _pairs(tree: Any) -> str:
    if not isinstance(tree, Mapping):
        return NOT_RECORDED
    return ", ".join(f"{name} {_plain(value)}" for name, value in tree.items() if value not in (None, "", []))


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _code(git: Any) -> str:
    if not isinstance(git, Mapping):
        return NOT_RECORDED
    changed = ", with changes that are not committed" if git.get("dirty") else ""
    return f"commit {git.get('commit')}{changed}"
