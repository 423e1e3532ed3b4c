"""The entry point of the command ``esper``."""

import functools
import inspect
import os
import sys
from collections import UserDict
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import esper_ray
from esper_ray.cli.errors import reported
from esper_ray.cli.signals import exit_on_signals
from esper_ray.leyline.errors import UsageError, shortened
from esper_ray.leyline.process.credentials import looks_like_uri, without_credentials

VARIADIC = ("--slots", "--devices", "--reward-modes")
"""Options that take several values after one another, as in ``--slots r0c0 r0c1``."""

TRAINING, INSPECTION, SETUP = "Train and evaluate", "Inspect runs", "Set up"


@dataclass(frozen=True)
class Entry:
    """Entry of a command, which is imported when it is called.

    ``module`` is below ``esper_ray.cli.commands``, ``app`` the name of its Typer application there, ``summary`` the
    first line of its help.
    """

    module: str
    summary: str
    panel: str
    app: str = "app"


COMMANDS = {
    "train": Entry("training.train", "Train on growing networks.", TRAINING),
    "evaluate": Entry("training.evaluate", "Evaluate policies on paired seeds and compare them.", TRAINING),
    "sweep": Entry("training.sweep", "Train over reward modes, seeds and a grid, and rank the trials.", TRAINING),
    "export-policy": Entry("training.export", "Export the policy of a run as one file.", TRAINING),
    "events": Entry("inspection.events", "Print events of a run in order, while it trains or later.", INSPECTION),
    "sql": Entry("inspection.sql", "Query the event log of a run in SQL (DuckDB), read-only.", INSPECTION),
    "explain": Entry("inspection.explain", "Explain the reward of an episode, entry by entry.", INSPECTION),
    "replay": Entry("inspection.replay", "Replay a recorded episode and report the first difference.", INSPECTION),
    "report": Entry(
        "inspection.report", "Write one HTML file about a run, comparison, sweep or evaluation.", INSPECTION
    ),
    "flight": Entry("inspection.flight", "Print the last minute before something went wrong in a run.", INSPECTION),
    "sanctum": Entry("inspection.sanctum", "Show a run in the terminal, while it trains or later.", INSPECTION),
    "overwatch": Entry("inspection.overwatch", "Show runs in the browser, while they train or later.", INSPECTION),
    "monitor": Entry("training.monitor", "Train with a Prometheus server beside the run.", INSPECTION),
    "dashboards": Entry("dashboards", "Write, check and upload the Grafana dashboard and alert rules.", INSPECTION),
    "config": Entry("config", "Show configurations, presets and the schema.", SETUP),
    "tasks": Entry("tasks", "List the tasks, the data they need, and their presets.", SETUP),
    "submit": Entry("training.submit", "Submit a command of esper as a job to a Ray cluster.", SETUP),
    "version": Entry("version", "Print the version.", SETUP),
}
"""Every command, in the order of the help."""


class LazyCommands(UserDict[str, Any]):
    """Commands by name, each imported when it is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.data = dict(COMMANDS)

    def __getitem__(self, name: str) -> Any:
        entry = self.data[name]
        module = import_module(f"esper_ray.cli.commands.{entry.module}")
        command = typer.main.get_command(getattr(module, entry.app))
        command.name = name
        _unwrap_help(command)
        _refuse_uris(command)
        return command


def _unwrap_help(command: Any) -> None:
    """Join the lines of each paragraph of the help, which the terminal wraps anew."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
    for subcommand in getattr(command, "commands", {}).values():
        _unwrap_help(subcommand)


def _refuse_uris(command: Any) -> None:
    """Let no path of the command be a URI: it would become a folder of that name in the working folder."""
    for subcommand in getattr(command, "commands", {}).values():
        _refuse_uris(subcommand)
    run = command.callback
    if run is None:
        return
    parameters = {parameter.name: parameter for parameter in command.params}

    @functools.wraps(run)
    def checked(**values: Any) -> Any:
        for name, value in values.items():
            for path in value if isinstance(value, list | tuple) else [value]:
                if _is_path(path, parameters[name]) and looks_like_uri(str(path)):
                    option = parameters[name].opts[0]
                    label = option if option.startswith("-") else name.upper()
                    raise UsageError(f"{label} {Path(path)}: it is a URI; give a path of this machine")
        return run(**values)

    command.callback = checked


def _is_path(value: Any, parameter: Any) -> bool:
    """Whether ``value`` is a path, or its text, as Typer before 0.29 has it."""
    kind = type(getattr(parameter, "type", None)).__name__
    return isinstance(value, Path) or (isinstance(value, str) and kind in ("Path", "TyperPath"))


class LazyGroup(TyperGroup):
    """The command ``esper``: help and completion list its commands without importing them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = LazyCommands()

    def list_commands(self, _ctx: Any) -> list[str]:
        """Names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, _ctx: Any, cmd_name: str) -> TyperCommand | None:
        """Name and summary of a command."""
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else TyperCommand(cmd_name, help=entry.summary, rich_help_panel=entry.panel)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. A parse error quotes what was written, but no credentials."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = getattr(error, "message", None)
            if hasattr(error, "format_message") and isinstance(message, str):  # by name: typer may vendor its own click
                vars(error)["message"] = without_credentials(message)
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command itself, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and self.commands[command.name or ""], rest


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"esper-ray {esper_ray.__version__}")
        raise typer.Exit


app = typer.Typer(name="esper", cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def esper(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Networks that grow while they train, under a policy trained by PPO on Ray.

    Example: esper train ppo --preset digits
    """


def spread(arguments: list[str]) -> list[str]:
    """``--slots a b``, ``--slots a,b`` and ``--slots=a,b`` as ``--slots a --slots b``.

    Raises:
        UsageError: if an option has no value.
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


def _check_surroundings(arguments: list[str]) -> None:
    """Check arguments and working folder. Files of runs are UTF-8 and hold the command and its paths.

    Raises:
        UsageError: if an argument is not UTF-8, or the working folder is not, or does not exist any more.
    """
    for word in arguments:
        if _is_no_text(word):
            raise UsageError(f"the argument {shortened(word)} is not UTF-8")
    try:
        folder = os.getcwd()
    except OSError as error:
        raise UsageError(f"the working folder cannot be used: {error.strerror}; change to another one") from None
    if _is_no_text(folder):
        raise UsageError(f"the name of the working folder {shortened(folder)} is not UTF-8; change to another one")


def _is_no_text(text: str) -> bool:
    """Whether ``text`` holds bytes that are not UTF-8. Python keeps them as halves of surrogate pairs."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def main() -> None:
    """Run the command line. A user error is printed on standard error and gives exit code 2."""
    exit_on_signals()
    with reported():
        _check_surroundings(sys.argv[1:])
        app(args=spread(sys.argv[1:]), prog_name="esper")


if __name__ == "__main__":
    main()
