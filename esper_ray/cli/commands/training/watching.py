"""Options of commands that train, by which the run is watched: ``--sanctum`` and ``--overwatch``."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from esper_ray.leyline.errors import UsageError

WATCHING = "Watch the run"
"""Title of the panel in the help."""
FLAGS_OF_SANCTUM = ("--sanctum",)
"""Words that the command lacks which Sanctum starts and shows."""

SanctumFlag = Annotated[
    bool,
    typer.Option(
        "--sanctum",
        help="show the run in this terminal; it continues if the terminal is closed",
        rich_help_panel=WATCHING,
    ),
]
OverwatchFlag = Annotated[
    bool,
    typer.Option("--overwatch", help="serve a page about the run while it lasts", rich_help_panel=WATCHING),
]
OverwatchPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="port of the page; 0: a free one; default: 8080", rich_help_panel=WATCHING),
]
Keep = Annotated[
    bool,
    typer.Option("--keep", help="serve the page after the run, until Ctrl-C", rich_help_panel=WATCHING),
]


def is_terminal() -> bool:
    """Whether standard input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def without_sanctum(words: Sequence[str]) -> list[str]:
    """The words of a command line without ``--sanctum``."""
    return [word for word in words if word not in FLAGS_OF_SANCTUM]


def show_in_sanctum() -> None:
    """Start the present command without ``--sanctum``, show its run, and exit.

    Raises:
        UsageError: without a terminal. Nothing is started then.
        MissingExtraError: without Textual. Nothing is started then.
        SystemExit: with the exit code of the command, or 0 if it continues.
    """
    if not is_terminal():
        raise UsageError("--sanctum needs a terminal; leave it out, and `esper sanctum RUN` shows the run elsewhere")
    from esper_ray.cli.jobs.watched import watch_command

    raise SystemExit(watch_command(without_sanctum(sys.argv[1:])))


def chosen_port(sanctum: bool, overwatch: bool, port: int | None, keep: bool) -> int | None:
    """The port of the page, as by :func:`page_port`; with ``--sanctum`` the run is shown instead."""
    if sanctum:
        show_in_sanctum()
    return page_port(overwatch, port, keep)


def page_port(overwatch: bool, port: int | None, keep: bool) -> int | None:
    """The port of the page, which is free; ``None`` without ``--overwatch``.

    Raises:
        UsageError: if an option of the page is given without it, or the port is taken.
    """
    if not overwatch:
        if port is not None or keep:
            option = "--keep" if port is None else f"--overwatch-port {port}"
            raise UsageError(f"{option} belongs to --overwatch")
        return None
    from esper_ray.cli.jobs.page import free_port_of_page

    return free_port_of_page(port)
