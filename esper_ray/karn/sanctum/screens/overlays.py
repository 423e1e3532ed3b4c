"""Help with the glossary, and the facts of a run: pages over a screen that can be scrolled."""

from collections.abc import Iterator, Mapping
from typing import Any

from esper_ray.karn.sanctum.stages import LETTERS, MEANINGS, OPERATION_LETTERS, ROLES
from esper_ray.karn.sanctum.text import Ink, TextLine, line, local_time, printable, rule, wrapped
from esper_ray.karn.sanctum.view import Body, Controls, RunView
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.shapes import Field

KEYS = (
    ("1 to 7", "screens: overview, policy, networks, episode, seed, log, runs"),
    ("e NUMBER", "environment by its number"),
    ("j k, arrows", "next and previous row; h l: step of the episode, slot of the seed"),
    ("g G", "first and last row"),
    ("enter", "open: environment, event's environment, run"),
    ("esc, backspace", "back"),
    ("/", "filter of the log and of the runs: words that must occur; kind=gate for one kind"),
    ("s", "sort the environments: by number, accuracy, growth, return"),
    ("a", "log: trouble only"),
    ("space", "hold what is shown; space again continues"),
    ("p", "episode: the step with the highest accuracy"),
    ("t", "the other group of a comparison"),
    ("y", "copy the SQL of what is shown, for esper sql"),
    ("w", "write the flight recorder: the driver must run on this machine"),
    ("ctrl+p", "palette: all commands by name"),
    ("i", "facts of the run, problems of its files"),
    ("?", "this page"),
    ("q, ctrl+c", "leave; a run that was started with --sanctum: let it run, stop it, stay"),
)
MARKS = (
    ("ok", "in order"),
    ("!", "look at it"),
    ("X", "wrong"),
    ("?", "unknown: not recorded, or too early"),
)
TERMS = ("env_epoch", "ppo_update", "round", "gate", "veto", "rollback", "attribution", "counterfactual", "control")
"""Kinds of which the glossary explains name and fields."""
LABEL, KEY_LABEL = 28, 18
"""Columns of the names, and of the keys."""


def body(view: RunView, controls: Controls, width: int, height: int) -> Body:
    """The lines of the overlay from its first shown one."""
    lines = help_lines(width) if controls.overlay == "help" else fact_lines(view, width)
    room = height - 1
    offset = max(0, min(controls.scroll, len(lines) - room))
    name = "help" if controls.overlay == "help" else "facts of the run"
    end = min(offset + room, len(lines))
    title = rule(f"{name}, lines {offset + 1} to {end} of {len(lines)}, j k scroll, esc closes", width)
    return Body((title, *lines[offset : offset + room]), offset)


def help_lines(width: int) -> list[TextLine]:
    """Keys, marks and letters, and the glossary of the catalogue."""
    lines: list[TextLine] = [line(Ink("keys", "title"))]
    lines += _entries(KEYS, width, KEY_LABEL)
    lines += [(), line(Ink("marks of the answers", "title")), *_entries(MARKS, width)]
    lines += [(), line(Ink("letters of the slots", "title"))]
    for name, letter in LETTERS.items():
        lines.append(line("  ", Ink(letter, ROLES[name]), " " * (LABEL - 3), MEANINGS[name]))
    letters = [(letter, name) for name, letter in OPERATION_LETTERS.items()]
    lines += [
        (),
        line(Ink("letters of the operations; a capital had no effect", "title")),
        *_entries(letters, width),
    ]
    for name in TERMS:
        kind = KINDS[name]
        lines += [(), line(Ink(f"{name.replace('_', ' ')}: ", "title"), kind.about)]
        lines += _entries(glossary(kind.fields), width)
    return lines


def glossary(fields: tuple[Field, ...]) -> Iterator[tuple[str, str]]:
    """Names and meanings of fields, with units."""
    for field in fields:
        unit = f" ({field.unit})" if field.unit else ""
        yield field.name.replace("_", " "), f"{field.about}{unit}"


def _entries(entries: Any, width: int, label: int = LABEL) -> list[TextLine]:
    lines: list[TextLine] = []
    for name, about in entries:
        for index, text in enumerate(wrapped(about, width - label)):
            lines.append(line(Ink(f"  {name if index == 0 else '':<{label - 2}}"), text))
    return lines


def fact_lines(view: RunView, width: int) -> list[TextLine]:
    """Manifest, pulse, and what is damaged."""
    manifest, config = view.manifest, view.manifest.get("config") or {}
    task = config.get("task") or {}
    facts = {
        "directory": view.path,
        "status": manifest.get("status"),
        "started": local_time(str(manifest.get("started", ""))),
        "updated": local_time(str(manifest.get("updated", ""))),
        "command": " ".join(map(str, manifest.get("command", ()))),
        "preset, task, seed": f"{config.get('name')}, {task.get('name')}, {config.get('seed')}",
        "rounds, episode length": f"{view.rounds}, {config.get('episode_length')}",
        "reward": (config.get("reward") or {}).get("mode"),
        "slots": " ".join(view.slots),
        "configuration sha256": manifest.get("config_sha256"),
        "policy sha256": manifest.get("policy_sha256") or "-",
        "hardware": _brief(manifest.get("hardware")),
        "versions": _brief(manifest.get("versions")),
        "git": _brief(manifest.get("git")),
        "driver": _driver(view),
        "other views": _brief((view.sight.pulse or {}).get("links", {})) or "-",
        "events": f"{sum(view.state.totals.events.values()):,}",
    }
    lines = _entries([(name, printable(str(value))) for name, value in facts.items()], width)
    lines += [(), line(Ink(f"problems: {len(view.problems) or 'none'}", "title"))]
    lines += [line(f"  {text}") for problem in view.problems for text in wrapped(printable(problem), width - 2)]
    lines += [(), line(Ink(f"notes: {len(view.notes) or 'none'}", "title"))]
    lines += [line(f"  {text}") for note in view.notes for text in wrapped(printable(note), width - 2)]
    faults = view.state.faults[-10:]
    lines += [(), line(Ink(f"faults: {sum(view.state.totals.faults.values()) or 'none'}", "title"))]
    return lines + [line(f"  {text}") for fault in faults for text in wrapped(printable(fault.describe()), width - 2)]


def _driver(view: RunView) -> str:
    pulse = view.sight.pulse
    if pulse is None:
        return "no pulse is recorded"
    return f"process {pulse['pid']} on {pulse['host']}, {pulse['phase']}, telemetry {pulse['telemetry']}"


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_brief(inner)}" for name, inner in value.items() if inner not in (None, "", [], {}))
    return str(value)
