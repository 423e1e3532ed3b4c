"""``esper sanctum``: a run in the terminal."""

import os
from typing import Annotated

import typer

from esper_ray.cli.commands.training.watching import is_terminal
from esper_ray.leyline.errors import UsageError

app = typer.Typer(add_completion=False)


@app.command()
def sanctum(
    place: Annotated[
        str | None,
        typer.Argument(
            help="run, folder of runs, comparison, sweep, evaluation, or a storage (s3://...); default: the newest run",
            metavar="PLACE",
        ),
    ] = None,
    ascii_only: Annotated[bool, typer.Option("--ascii", help="draw with ASCII characters only")] = False,
) -> None:
    """Show a run in the terminal, while it trains or later.

    Five answers (alive, learning, growing, explained, safe) and seven screens; ? shows the keys and the glossary, q
    leaves. The run is only read. NO_COLOR is honored.

    Example: esper sanctum runs/my-run
    """
    if not is_terminal():
        raise UsageError("esper sanctum needs a terminal; `esper events` and `esper sql` print to pipes and files")
    from esper_ray.karn.sanctum.app import run_sanctum
    from esper_ray.karn.sanctum.view import OVERVIEW, RUNS
    from esper_ray.karn.sanctum.watch import watch_of

    watch = watch_of(place)
    screen = OVERVIEW if watch.shows_run else RUNS
    number = run_sanctum(watch, os.environ, ascii_only=ascii_only, screen=screen)
    raise SystemExit(128 + number if number else 0)
