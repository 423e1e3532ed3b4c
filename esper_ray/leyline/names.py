"""Names of runs, configurations and sweeps, which become names of folders, metrics and URIs."""

import re
from pathlib import Path

from esper_ray.leyline.errors import UsageError, shortened

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""A name, as a regular expression of the whole text."""

RUNS = Path("runs")
"""Folder of run directories, unless another one is chosen."""

CONSOLE_LOG = "console.log"
"""File of a run, comparison or sweep with the output of its command, if that was started by ``--sanctum``."""


def checked_name(name: str) -> str:
    """``name``, if it matches ``NAME_PATTERN``.

    Raises:
        ValueError: if it does not.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            "a name has at most 100 letters (A-Z, a-z), digits, '.', '_' and '-', and begins with a letter or digit"
        )
    return name


def checked_option(option: str, name: str) -> str:
    """The name that ``option`` gives.

    Raises:
        UsageError: if it is not a name.
    """
    try:
        return checked_name(name)
    except ValueError as error:
        raise UsageError(f"{option} {shortened(name)}: {error}") from None
