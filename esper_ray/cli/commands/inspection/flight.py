"""``esper flight``: the recordings of a run's flight recorder."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def flight(
    run: Annotated[Path, typer.Argument(help="run directory", metavar="RUN")],
    number: Annotated[int | None, typer.Argument(min=1, help="number of a recording", metavar="[NUMBER]")] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, max=86400.0, help="time before the recording that is printed, in seconds")
    ] = 60.0,
    write: Annotated[bool, typer.Option("--write", help="ask the driver of a live run for a recording")] = False,
) -> None:
    """Print the last minute before something went wrong in a run.

    Without NUMBER the recordings are listed, and the newest one is printed. A run that was killed, or still trains,
    has none of its end: then its last beat, its faults and its steps in play are printed. A recording is written when
    the run fails, an anomaly begins, an environment is quarantined, rollbacks pile up, the process receives SIGUSR1,
    or with --write.

    Example: esper flight runs/my-run 2
    """
    from esper_ray.karn.flight import end_lines, has_ended, last_lines, read_recording, recording_lines, recording_of
    from esper_ray.nissa.runs.flight_recorder import recordings, request_recording
    from esper_ray.nissa.runs.run_directory import RunDirectory

    directory = RunDirectory.open(run)
    if write:
        request_recording(directory.path)
        typer.echo("requested; the driver writes it within about a second")
        return
    if number is not None:
        lines = last_lines(recording_of(directory, number), seconds)
    else:
        files = recordings(directory.path)
        for line in recording_lines(directory):
            typer.echo(line)
        if files:
            typer.echo("")
        newest = files and has_ended(directory)
        lines = last_lines(read_recording(files[-1]), seconds) if newest else end_lines(directory, seconds)
    for line in lines:
        typer.echo(line)
