"""Screen 7: the runs of a folder, a comparison, a sweep or a storage; the policies of an evaluation."""

from esper_ray.karn.places import RunLine
from esper_ray.karn.sanctum.screens.overview import WIDE
from esper_ray.karn.sanctum.text import Ink, Role, TextLine, fitted, line, printable, rule, window, wrapped
from esper_ray.karn.sanctum.view import RUNS, Body, Controls, RunView

STATUS_ROLES: dict[str, Role] = {"finished": "ok", "failed": "wrong", "interrupted": "look", "running": "early"}
DETAIL_ROWS = 2
"""Rows for what differs in the run under the cursor."""
REASONS = {
    "folder": "no run is here; `esper train ppo` starts one",
    "comparison": "no side has started yet",
    "sweep": "no trial has started yet",
    "evaluation": "its policies cannot be read",
    "storage": "no copy of a run is here",
    "page": "the server shows no run",
}


def filtered(view: RunView, controls: Controls) -> list[RunLine]:
    """The runs that the viewer wants to see, newest first."""
    words = controls.filter.lower().split()
    return [run for run in view.runs if all(word in searched(run) for word in words)]


def searched(run: RunLine) -> str:
    """The text in which the filter is looked for."""
    return f"{run.name} {run.status} {run.task} {run.preset} s{run.seed} {run.group} {run.kind} {run.detail}".lower()


def cursor_of(runs: list[RunLine], view: RunView, controls: Controls) -> int:
    """Index of the run under the cursor; at first the one that is shown."""
    wanted = controls.run if controls.run is not None else view.name
    return next((index for index, run in enumerate(runs) if run.name == wanted), 0)


def body(view: RunView, controls: Controls, width: int, height: int) -> Body:
    """The runs."""
    runs = filtered(view, controls)
    lines: list[TextLine] = [_title(view, controls)]
    if not runs:
        reason = "no run matches the filter" if view.runs else REASONS[view.folder_kind]
        return Body((*lines, line(f" {reason}")))
    differs = any(run.detail for run in view.runs)
    longest = max(len(run.name) for run in runs) + 2
    room = max(20, min(longest, width * 2 // 5) if width >= WIDE and differs else width - 62)
    heading = f"  {'name':<{room}} {'status':<12}{'preset':<16}{'seed':>6}  {'started':<17}"
    lines.append(fitted(line(Ink(heading + (" differs" if width >= WIDE and differs else ""), "dim")), width))
    rows = max(1, height - len(lines) - (1 + DETAIL_ROWS if differs else 0))
    cursor = cursor_of(runs, view, controls)
    offset = window(len(runs), rows, cursor, controls.offsets.get(RUNS, 0))
    end = min(offset + rows, len(runs))
    lines += [_run_line(runs[index], index == cursor, room, width) for index in range(offset, end)]
    if differs:
        lines += [()] * (rows - (end - offset))
        title = "scores" if view.folder_kind == "evaluation" else "differs from the others in"
        lines.append(rule(title, width))
        lines += [line(f" {text}") for text in wrapped(printable(runs[cursor].detail), width - 2)[:DETAIL_ROWS]]
    return Body(tuple(lines), offset)


def _title(view: RunView, controls: Controls) -> TextLine:
    noun = {"evaluation": "policies", "sweep": "trials"}.get(view.folder_kind, "runs")
    noun = noun if len(view.runs) != 1 else {"policies": "policy"}.get(noun, noun.removesuffix("s"))
    where = {"folder": "", "page": "", "storage": "the storage "}.get(view.folder_kind, f"the {view.folder_kind} ")
    what = f"   filter: {printable(controls.filter)}" if controls.filter else ""
    return line(Ink(f"{len(view.runs)} {noun} in {where}{printable(view.folder)}", "title"), what)


def _run_line(run: RunLine, chosen: bool, room: int, width: int) -> TextLine:
    name = f"{run.name}/" if run.kind in ("comparison", "sweep", "evaluation") else run.name
    mark = Ink(f"{'>' if chosen else ' '} {printable(name)[:room]:<{room}}", "cursor" if chosen else "")
    text = run.status if run.kind in ("run", "policy") else run.kind
    status = Ink(f"{printable(text)[:11]:<12}", STATUS_ROLES.get(run.status, ""))
    started = printable(run.started[:16].replace("T", " "))
    rest = f"{printable(run.preset)[:15]:<16}{printable(run.seed)[:6]:>6}  {started:<17}"
    differs = f" {printable(run.detail)}" if width >= WIDE else ""
    return fitted(line(mark, " ", status, rest, Ink(differs, "dim")), width)
