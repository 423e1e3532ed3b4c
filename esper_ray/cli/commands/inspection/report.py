"""``esper report``: a run, a comparison, a sweep or an evaluation as one page of HTML."""

from pathlib import Path
from typing import Annotated

import typer

from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.files.paths import may_be_replaced

app = typer.Typer(add_completion=False)

BEGIN = b"<!doctype html"
"""Beginning of a page of HTML, in lower case."""


@app.command()
def report(
    place: Annotated[Path, typer.Argument(help="folder of a run, comparison, sweep or evaluation", metavar="FOLDER")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file to write; default: NAME.html in this folder")
    ] = None,
) -> None:
    """Write one HTML file about a run, comparison, sweep or evaluation.

    The file has no script and loads nothing, so that it can be mailed and archived. That of a run holds a verdict,
    the five answers, curves, blueprints, the best, the median and the worst episode, everything that went wrong,
    whether the log is whole, and how to repeat it. Equal logs give equal files. An existing page is replaced.

    Example: esper report runs/my-run -o run.html
    """
    from esper_ray.karn.reports.html.place_report import place_report
    from esper_ray.leyline.files.durable import WriteError, write_file

    path = Path(f"{place.absolute().name}.html") if output is None else output
    if path.is_dir():
        raise UsageError(f"--output {path}: it is a folder; give the name of a file in it, such as {path / 'run.html'}")
    if not may_be_replaced(path, BEGIN, any_case=True):
        raise UsageError(f"--output {path}: the file exists and is not a page of HTML; choose another name")
    text = place_report(place)
    try:
        write_file(path, text)
    except WriteError as error:
        raise UsageError(f"--output {error}") from error
    typer.echo(f"{path}, {len(text.encode()) / 1024:,.0f} KiB")
