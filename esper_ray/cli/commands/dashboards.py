"""``esper dashboards``: the Grafana dashboard and alert rules."""

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from esper_ray.cli.errors import FAILED
from esper_ray.leyline.errors import UsageError, shortened
from esper_ray.leyline.files.durable import write_file
from esper_ray.leyline.files.paths import may_be_replaced

HELP = """Write, check and upload the Grafana dashboard and alert rules.

Example: esper dashboards check --folder dashboards
"""

BEGIN = 20
"""Characters by which a rendered file is known."""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False)


@app.command()
def render(
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path("dashboards"),
) -> None:
    """Write dashboard and alert rules from the catalogue of metrics.

    Files that this command has written are replaced, others are not.

    Example: esper dashboards render --out dashboards
    """
    from esper_ray.nissa.grafana.dashboard import files

    if not out.is_dir():
        raise UsageError(f"--out {out}: it must be a folder that exists")
    for name, content in files().items():
        if not may_be_replaced(out / name, content[:BEGIN].encode()):
            raise UsageError(f"--out {out}: {name} in it was not written by this command; choose another folder")
    for name, content in files().items():
        try:
            write_file(out / name, content)
        except OSError as error:
            raise UsageError(f"{out / name} cannot be written: {error.strerror or error}") from error
        typer.echo(str(out / name))


@app.command()
def check(
    folder: Annotated[Path, typer.Option(help="folder with the files to compare")] = Path("dashboards"),
) -> None:
    """Check that queries parse, metrics exist and files are up to date.

    Example: esper dashboards check --folder dashboards
    """
    from esper_ray.nissa.grafana.dashboard import expressions, files, unknown_metrics

    problems = []
    count = 0
    for owner, expression in expressions():
        count += 1
        problems += [f"{owner}: there is no metric {name}" for name in unknown_metrics(expression)]
        problem = _syntax_error(expression)
        if problem is not None:
            problems.append(f"{owner}: {problem}: {expression}")
    for name, content in files().items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} does not exist; esper dashboards render writes it")
        elif path.read_text() != content:
            problems.append(f"{path} differs from the catalogue; esper dashboards render writes it anew")
    for problem in problems:
        typer.echo(problem, err=True)
    typer.echo(f"{count} queries, {len(problems)} {'problem' if len(problems) == 1 else 'problems'}")
    if problems:
        raise typer.Exit(FAILED)


def _check_url(url: str) -> None:
    """
    Raises:
        UsageError: if it is not an address of a web server.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:
        raise UsageError(f"--url {shortened(url)}: {error}") from None
    if not known:
        raise UsageError(f"--url {shortened(url)}: it must begin with http:// or https://, and a host")


@app.command()
def picture(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder for the pictures; must exist")],
    prometheus: Annotated[str, typer.Option(help="address of Prometheus")] = "http://localhost:9090",
    run: Annotated[str | None, typer.Option(help="name of the run; default: the only one")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=525_600, help="minutes to show, up to now")] = 15.0,
) -> None:
    """Draw every row of the dashboard as a picture, without Grafana.

    Example: esper dashboards picture pictures --prometheus http://localhost:9090
    """
    from esper_ray.karn.reports.panel_pictures import draw_rows
    from esper_ray.nissa.grafana.prometheus import PrometheusApi

    if not folder.is_dir():
        raise UsageError(f"{folder} must be a folder that exists")
    api = PrometheusApi(prometheus.rstrip("/"))
    runs = api.label_values("run") if run is None else [run]
    if len(runs) != 1:
        raise UsageError(f"--run: {prometheus} has {', '.join(runs) or 'no run'}; name one of them")
    for path in draw_rows(api, runs[0], folder, minutes * 60.0):
        typer.echo(str(path))


@app.command()
def push(
    url: Annotated[str, typer.Option(help="address of Grafana, http://host:3000")],
    token_env: Annotated[
        str, typer.Option(help="environment variable with the token of a service account with the role Editor")
    ] = "GRAFANA_TOKEN",
    datasource: Annotated[
        str | None, typer.Option(help="name of the Prometheus data source, if there are several")
    ] = None,
    run: Annotated[
        list[Path] | None, typer.Option(help="run directory whose events become annotations; repeatable")
    ] = None,
) -> None:
    """Create or replace folder, dashboard, alert rules and annotations in Grafana.

    Annotations mark events of a run: fossilized seeds, rollbacks, anomalies. The command is idempotent.

    Example: esper dashboards push --url http://localhost:3000 --run runs/my-run
    """
    from esper_ray.nissa.grafana.annotations import annotations
    from esper_ray.nissa.grafana.client import Grafana
    from esper_ray.nissa.runs.run_directory import RunDirectory

    _check_url(url)
    token = os.environ.get(token_env)
    if not token:
        raise UsageError(f"--token-env {token_env}: there is no such environment variable, or it is empty")
    directories = [RunDirectory.open(path) for path in run or ()]
    marks = [(directory.names, annotations(directory)) for directory in directories]
    grafana = Grafana(url, token)
    for line in grafana.push(datasource):
        typer.echo(line)
    for names, run_marks in marks:
        typer.echo(grafana.annotate(names, run_marks))


def _syntax_error(expression: str) -> str | None:
    import promql_parser

    try:
        promql_parser.parse(expression)
    except ValueError as error:
        return str(error)
    return None
