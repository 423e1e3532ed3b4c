"""``esper events``: the event log of a run."""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper_ray.cli.tables import cell, table_lines
from esper_ray.leyline.errors import UsageError

if TYPE_CHECKING:
    from esper_ray.nissa.runs.run_directory import RunDirectory

app = typer.Typer(add_completion=False)

FORMATS = ("table", "json")


@app.command()
def events(
    run: Annotated[Path, typer.Argument(help="run directory", metavar="RUN")],
    kind: Annotated[str | None, typer.Option(help="kind of event; samples are printed only with their kind")] = None,
    env: Annotated[int | None, typer.Option(min=0, help="only events of this environment")] = None,
    episode: Annotated[int | None, typer.Option(min=0, help="only events of this episode")] = None,
    round_index: Annotated[int | None, typer.Option("--round", min=0, help="only events of this round")] = None,
    slot: Annotated[str | None, typer.Option(help="only events of this slot")] = None,
    limit: Annotated[int, typer.Option(min=0, max=10**9, help="number of last events; 0: all")] = 50,
    form: Annotated[str, typer.Option("--format", help="table or json")] = "table",
    evidence: Annotated[bool, typer.Option("--evidence", help="fail if anything is missing or damaged")] = False,
) -> None:
    """Print events of a run in order, while it trains or later.

    Example: esper events runs/my-run --kind outcome --limit 10
    """
    from esper_ray.leyline.config.base import unknown_name_message
    from esper_ray.nissa.catalogue.kinds import KINDS
    from esper_ray.nissa.runs.run_directory import RunDirectory

    if kind is not None and kind not in KINDS:
        raise UsageError(f"--kind: {unknown_name_message('kind', kind, list(KINDS))}")
    if form not in FORMATS:
        raise UsageError(f"--format {form}: it must be table or json")
    filters = {"kind": kind, "env": env, "episode": episode, "round": round_index, "slot": slot}
    filters = {name: value for name, value in filters.items() if value is not None}
    directory = RunDirectory.open(run)
    _check_filters(directory, kind, filters)
    sampled = kind is not None and KINDS[kind].delivery == "sample"
    if sampled and evidence:
        raise UsageError(f"--evidence: {kind} is a sample, which may be lost; `esper sql` finds samples_lost")
    shown: deque[dict[str, Any]] = deque(maxlen=limit or None)
    matching = 0
    for record in directory.samples.records() if sampled else directory.events(evidence=evidence):
        if all(record.get(name) == value for name, value in filters.items()):
            matching += 1
            shown.append(record)
    if form == "json":
        for record in shown:
            typer.echo(json.dumps(record))
    else:
        _print_table(*_as_rows(shown, kind))
    if not matching:
        typer.echo("the run has no such events so far", err=True)
    if len(shown) < matching:
        typer.echo(f"the last {len(shown)} of {matching}; --limit 0 prints all", err=True)


def _check_filters(directory: "RunDirectory", kind: str | None, filters: Mapping[str, Any]) -> None:
    """Check that the run can have such events.

    Raises:
        UsageError: if a kind has no such field, or the run no such environment or slot.
    """
    from esper_ray.nissa.catalogue.kinds import KINDS

    if kind is not None:
        fields = {"kind", *KINDS[kind].clock, *KINDS[kind].by_name}
        for name in filters.keys() - fields:
            raise UsageError(f"--{name} {filters[name]}: events of kind {kind} have no {name}")
    config = directory.config()
    envs, slots = config.system.envs, config.growth.slots
    if filters.get("env", 0) >= envs:
        raise UsageError(f"--env {filters['env']}: the run has the environments 0 to {envs - 1}")
    if filters.get("slot", slots[0]) not in slots:
        raise UsageError(f"--slot {filters['slot']}: it must be one of {', '.join(slots)}")


def _as_rows(records: Iterable[dict[str, Any]], kind: str | None) -> tuple[Sequence[str], list[list[str]]]:
    """Columns and cells: fields of one kind, or common fields of several kinds with the rest as text."""
    from esper_ray.nissa.catalogue.kinds import KINDS
    from esper_ray.nissa.catalogue.shapes import CLOCK
    from esper_ray.nissa.log.tables import PROVENANCE

    if kind is not None:
        declared = KINDS[kind]
        columns = ["seq", *declared.clock, *declared.by_name]
        return columns, [[cell(record[name]) for name in columns] for record in records]
    common = ["seq", *CLOCK, "kind"]
    rows = []
    for record in records:
        rest = {name: value for name, value in record.items() if name not in (*common, *PROVENANCE)}
        words = ", ".join(f"{name} {_brief(value)}" for name, value in rest.items() if value not in (None, "", [], {}))
        rows.append([*(cell(record.get(name)) for name in common), words])
    return [*common, "what"], rows


def _brief(value: Any) -> str:
    """A cell, or how many there are where records lie within."""
    nested = isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict))
    return f"({len(value)})" if nested else cell(value)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for line in table_lines(columns, rows):
        typer.echo(line)
