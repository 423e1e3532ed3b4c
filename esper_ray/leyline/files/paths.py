"""Paths for new files and folders."""

from collections.abc import Iterator
from pathlib import Path

NAMES_TRIED = 1000
"""Number of folders that one name can give."""


def unused_paths(parent: Path, name: str) -> Iterator[Path]:
    """Paths in ``parent`` that do not exist: ``name``, then with a number behind it."""
    candidates = (parent / (name if number == 0 else f"{name}-{number}") for number in range(NAMES_TRIED))
    return (path for path in candidates if not path.exists())
