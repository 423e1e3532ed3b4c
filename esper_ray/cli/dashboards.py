"""``esper dashboards``: the Grafana dashboard and the alert rules."""

from pathlib import Path
from typing import Annotated

import typer

from esper_ray.cli.errors import FAILED, UsageError

app = typer.Typer(help="The Grafana dashboard and the alert rules.", no_args_is_help=True)


@app.command()
def render(
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path("dashboards"),
) -> None:
    """Write dashboard and alert rules, as the catalogue of metrics has them."""
    from esper_ray.nissa.dashboard import files

    if not out.is_dir():
        raise UsageError(f"--out {out}: it must be a folder that exists")
    for name, content in files().items():
        try:
            (out / name).write_text(content)
        except OSError as error:
            raise UsageError(f"{out / name} cannot be written: {error.strerror or error}") from error
        typer.echo(str(out / name))


@app.command()
def check(
    folder: Annotated[Path, typer.Option(help="folder with the files to compare")] = Path("dashboards"),
) -> None:
    """See that every query names metrics that exist and parses, and that the files are up to date."""
    from esper_ray.nissa.dashboard import expressions, files, unknown_metrics

    problems = []
    count = 0
    for whose, expression in expressions():
        count += 1
        problems += [f"{whose}: there is no metric {name}" for name in unknown_metrics(expression)]
        problem = _syntax_error(expression)
        if problem is not None:
            problems.append(f"{whose}: {problem}: {expression}")
    for name, content in files().items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} does not exist; esper dashboards render writes it")
        elif path.read_text() != content:
            problems.append(f"{path} is not what the catalogue makes; esper dashboards render writes it anew")
    for problem in problems:
        typer.echo(problem, err=True)
    typer.echo(f"{count} queries, {len(problems)} {'problem' if len(problems) == 1 else 'problems'}")
    if problems:
        raise typer.Exit(FAILED)


def _syntax_error(expression: str) -> str | None:
    import promql_parser

    try:
        promql_parser.parse(expression)
    except ValueError as error:
        return str(error)
    return None
