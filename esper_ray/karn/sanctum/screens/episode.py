"""Screen 4: the newest episode of an environment as lanes over its steps, and the reward of one step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from esper_ray.karn.sanctum.events import describe, role_of
from esper_ray.karn.sanctum.stages import OPERATION_LETTERS, stage_span
from esper_ray.karn.sanctum.text import (
    Ink,
    Role,
    TextLine,
    between,
    fitted,
    line,
    number,
    printable,
    rule,
    sparkline,
)
from esper_ray.karn.sanctum.view import Body, Controls, RunView
from esper_ray.leyline.records import Record

LABEL = 12
RANGE = 17
"""Columns for the range of a curve."""


@dataclass(frozen=True, slots=True)
class EpisodeStep:
    """One step with the events that belong to it."""

    record: Record
    """Of kind ``env_epoch``."""
    events: tuple[Record, ...] = ()


def steps_of(records: Iterable[Record]) -> list[EpisodeStep]:
    """The steps among the records of an episode, each with the events before it."""
    steps: list[EpisodeStep] = []
    events: list[Record] = []
    for record in records:
        if record["kind"] == "env_epoch":
            steps.append(EpisodeStep(record, tuple(events)))
            events = []
        elif record["kind"] in ("seed_transition", "gate", "veto", "rollback"):
            events.append(record)
    if events and steps:
        steps[-1] = EpisodeStep(steps[-1].record, (*steps[-1].events, *events))
    return steps


def chosen_step(steps: Sequence[EpisodeStep], controls: Controls) -> int:
    """Index of the step under the cursor."""
    if controls.step is None:
        return len(steps) - 1
    numbers = [step.record["step"] for step in steps]
    return min(range(len(steps)), key=lambda index: abs(numbers[index] - (controls.step or 0)))


def body(view: RunView, controls: Controls, width: int, height: int) -> Body:
    """The newest episode of the chosen environment."""
    env = controls.shown_env(view)
    if env is None:
        return Body((line(" no episode has started yet"),))
    steps = steps_of(view.recent.episode(env))
    if not steps:
        return Body((line(f" environment {env}: no step of its newest episode is recorded yet"),))
    index = chosen_step(steps, controls)
    record = steps[index].record
    in_play = env in view.recent.live
    where = f", episode {record['episode']}, round {record['round'] + 1}, {len(steps)} steps"
    left = line(Ink(f"environment {env}", "title"), where, Ink(", in play" if in_play else "", "early"))
    lines = [between(left, line(Ink("h l step  p peak  j k env", "dim")), width)]
    lines += lanes(view, steps, index, width)
    lines += step_lines(steps[index], width, in_play)
    if len(lines) > height:
        lines = [
            *lines[: height - 1],
            line(Ink(f"{len(lines) - height + 1} more lines: a higher window shows them", "dim")),
        ]
    return Body(tuple(lines))


def lanes(view: RunView, steps: Sequence[EpisodeStep], index: int, width: int) -> list[TextLine]:
    """Operations, slots, accuracy and reward over the steps, with the cursor in one column."""
    columns = max(10, width - LABEL - RANGE)
    first = max(0, min(index - columns // 2, len(steps) - columns))
    shown = steps[first : first + columns]
    cursor = index - first
    operations = [
        Ink(OPERATION_LETTERS.get(s.record["operation"], "?"), "" if s.record["success"] else "look") for s in shown
    ]
    lines = [_scale(shown)]
    lines.append(_lane("operation", [_refused(span) for span in operations], cursor, "  capital: no effect"))
    lines += [_lane(name, [_stage(step.record, name) for step in shown], cursor) for name in view.slots]
    accuracies = [step.record["val_accuracy_pp"] for step in shown]
    control = view.recent.last("control")
    curve = control["curve_pp"] if control is not None else []
    controls = [curve[n] if (n := step.record["step"]) < len(curve) else None for step in shown]
    known = [value for value in (*accuracies, *controls) if value is not None]
    bounds = (min(known), max(known)) if known else None
    lines.append(_curve("accuracy", accuracies, cursor, bounds, "bar"))
    if any(value is not None for value in controls):
        lines.append(_curve("control", controls, cursor, bounds, "dim"))
    lines.append(_curve("reward", [step.record["reward"] for step in shown], cursor, None, ""))
    return lines


def _refused(span: Ink) -> Ink:
    return Ink(span.text.upper(), span.role) if span.role == "look" else span


def _scale(shown: Sequence[EpisodeStep]) -> TextLine:
    marks = [" "] * len(shown)
    for place, step in enumerate(shown):
        if place % 10 == 0:
            text = str(step.record["step"])
            marks[place : place + len(text)] = list(text)
    return line(Ink("step".ljust(LABEL) + "".join(marks[: len(shown)]), "dim"))


def _stage(record: Record, slot: str) -> Ink:
    report = record["slots"].get(slot)
    return Ink("·", "dim") if report is None else stage_span(report["stage"])


def _lane(name: str, cells: Sequence[Ink], cursor: int, tail: str = "", role: Role = "cursor") -> TextLine:
    marked = [Ink(cell.text, role) if place == cursor else cell for place, cell in enumerate(cells)]
    return line(f"{name:<{LABEL}}", *marked, Ink(tail, "dim"))


def _curve(
    name: str, values: Sequence[float | None], cursor: int, bounds: tuple[float, float] | None, role: Role
) -> TextLine:
    bars = sparkline(values, len(values), bounds) or " " * len(values)
    known = [value for value in values if value is not None]
    tail = f"  {min(known):.1f} .. {max(known):.1f}" if known else "  not measured"
    return _lane(name, [Ink(bar, role) for bar in bars], cursor, tail, "chosen")


def step_lines(step: EpisodeStep, width: int, in_play: bool) -> list[TextLine]:
    """The step under the cursor: operation, events, and reward by source."""
    record = step.record
    where = f" {record['slot']}" if record["slot"] else ""
    effect = "" if record["success"] else " without effect"
    lines: list[TextLine] = [
        rule(f"step {record['step']}", width),
        line(
            Ink(f"{record['operation']}{where}{effect}", "title"),
            f"   reward {number(record['reward'], '+.4f')}   value before {number(record['value'], '+.3f')}"
            f"   accuracy {number(record['val_accuracy_pp'], '.1f')} %",
        ),
    ]  # fmt: skip
    lines += [line("  ", Ink(describe(event), role_of(event))) for event in step.events]
    if "entries" not in record:
        reason = "the entries of its reward are in the log when the round has ended" if in_play else "no entries"
        return [*lines, line(Ink(f"  {reason}", "dim"))]
    for entry in sorted(record["entries"], key=lambda entry: -abs(entry["amount"] or 0.0)):
        cause = "this step" if entry["cause_step"] == record["step"] - 1 else f"step {entry['cause_step'] + 1}"
        amount = number(entry["amount"], "+.4f", "not finite")
        text = f"  {amount:>9}  {printable(entry['source'])[:20]:<20} {entry['slot'] or '-':<6}{cause:<10}"
        lines.append(fitted(line(text, Ink(printable(entry["why"]), "dim")), width))
    return lines
