"""Paths for new files and folders, and files that may be replaced."""

import os
from collections.abc import Iterator
from pathlib import Path

NAMES_TRIED = 1000
"""Number of folders that one name can give."""


def unused_paths(parent: Path, name: str) -> Iterator[Path]:
    """Paths in ``parent`` that do not exist: ``name``, then with a number behind it."""
    candidates = (parent / (name if number == 0 else f"{name}-{number}") for number in range(NAMES_TRIED))
    return (path for path in candidates if not path.exists())


def may_be_replaced(path: Path, begin: bytes, *, any_case: bool = False) -> bool:
    """Whether nothing is at ``path``, or a file that is empty or begins with ``begin``.

    A folder, a pipe, a device, a link to nothing, and a file that cannot be read may not be replaced.

    Args:
        any_case: whether letters in the file may be capitals where those of ``begin`` are small.
    """
    if not path.is_file():
        return not os.path.lexists(path)
    try:
        with path.open("rb") as file:
            found = file.read(len(begin))
    except OSError:
        return False
    return (found.lower() if any_case else found) in (b"", begin)
