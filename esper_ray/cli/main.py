"""The entry point of the command ``esper``."""

import sys
from typing import Annotated

import typer

import esper_ray
from esper_ray.cli.commands import config, dashboards, train
from esper_ray.cli.commands import evaluate as evaluating
from esper_ray.cli.commands import events as happened
from esper_ray.cli.commands import explain as explaining
from esper_ray.cli.commands import export as exporting
from esper_ray.cli.commands import monitor as monitoring
from esper_ray.cli.commands import replay as replaying
from esper_ray.cli.commands import submit as submitting
from esper_ray.cli.commands import sweep as sweeping
from esper_ray.cli.commands import tasks as listing
from esper_ray.cli.errors import reported
from esper_ray.cli.signals import exit_on_signals
from esper_ray.leyline.errors import UsageError

VARIADIC = ("--slots", "--devices", "--reward-modes")
"""Options that take several values after one another, as in ``--slots r0c0 r0c1``."""

app = typer.Typer(
    name="esper",
    help="Networks that grow while they train, under a policy trained by PPO on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(train.app, name="train")
app.add_typer(config.app, name="config")
app.add_typer(dashboards.app, name="dashboards")
app.command(name="replay")(replaying.replay)
app.command(name="sweep")(sweeping.sweep)
app.command(name="evaluate")(evaluating.evaluate)
app.command(name="export-policy")(exporting.export_policy)
app.command(name="explain")(explaining.explain)
app.command(name="events")(happened.events)
app.command(name="sql")(happened.sql)
app.command(name="monitor", context_settings=monitoring.CONTEXT)(monitoring.monitor)
app.command(name="submit", context_settings=submitting.CONTEXT)(submitting.submit)
app.command(name="tasks")(listing.tasks)


@app.command()
def version(
    verbose: Annotated[bool, typer.Option("--verbose", help="also what it stands on")] = False,
) -> None:
    """Print the version."""
    from esper_ray.nissa.runs.run_directory import MEASURED_PACKAGES, package_version

    typer.echo(f"esper-ray {esper_ray.__version__}")
    if verbose:
        for package in MEASURED_PACKAGES:
            typer.echo(f"{package} {package_version(package)}")


def spread(arguments: list[str]) -> list[str]:
    """``--slots a b``, ``--slots a,b`` and ``--slots=a,b`` as ``--slots a --slots b``.

    Raises:
        UsageError: if another option follows where a value belongs.
    """
    result: list[str] = []
    option: str | None = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in VARIADIC and equals:
            result += _repeated(name, value)
            option = None
        elif argument.startswith("-"):
            if option is not None and result[-1] == option:
                raise UsageError(f"{option} needs at least one value")
            result.append(argument)
            option = argument if argument in VARIADIC else None
        elif option is None:
            result.append(argument)
        elif result[-1] == option:
            result += _repeated(option, argument)[1:]
        else:
            result += _repeated(option, argument)
    return result


def _repeated(option: str, values: str) -> list[str]:
    return [part for value in values.split(",") for part in (option, value)]


def main() -> None:
    """Run the command line. Exit code 2 for what the user can mend, with the reason on standard error."""
    exit_on_signals()
    with reported():
        app(args=spread(sys.argv[1:]))


if __name__ == "__main__":
    main()
