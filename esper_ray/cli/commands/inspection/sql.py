"""``esper sql``: SQL over the event log of a run."""

from pathlib import Path
from typing import Annotated

import typer

from esper_ray.leyline.errors import UsageError

app = typer.Typer(add_completion=False)

FORMATS = ("table", "json", "csv")


@app.command()
def sql(
    run: Annotated[Path, typer.Argument(help="run directory", metavar="RUN")],
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="one SELECT; default: list tables and columns")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="table, json or csv")] = "table",
    limit: Annotated[int, typer.Option(min=0, max=10**9, help="number of first rows that are printed; 0: all")] = 1000,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86400, help="seconds after which the query is ended, its output not counted")
    ] = 10.0,
    memory: Annotated[int, typer.Option(min=64, max=2**20, help="memory of the query in MiB")] = 1024,
    evidence: Annotated[bool, typer.Option("--evidence", help="fail if any event is missing or damaged")] = False,
) -> None:
    """Query the event log of a run in SQL (DuckDB), read-only.

    The query runs in a process of its own, which can neither write nor read other files. JSON has null for NaN and
    infinity; tables and CSV print them as nan and inf. Exit code 2 if the query is refused, fails, or needs more time
    or memory than it may have.

    Example: esper sql runs/my-run "SELECT round, avg(total_reward) FROM outcome GROUP BY round"
    """
    from esper_ray.cli.jobs.query import QueryRequest, ask_in_process

    if form not in FORMATS:
        raise UsageError(f"--format {form}: it must be one of {', '.join(FORMATS)}")
    code = ask_in_process(QueryRequest(str(run), query, form, limit, memory, evidence), timeout)
    if code:
        raise SystemExit(code)
