"""Digests of files and of their first bytes."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from esper_ray.leyline.files.validation import SavedRecord, Whole

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""SHA-256 as hexadecimal digits."""


class FilePrefix(SavedRecord):
    """Size and digest of the first bytes of a file."""

    size: Whole
    sha256: Digest

    @classmethod
    def of(cls, content: bytes) -> "FilePrefix":
        """That of a file with ``content``."""
        return cls(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def digest_of(file: Path, size: int | None = None) -> str:
    """SHA-256 of a file as hexadecimal digits.

    Args:
        size: number of its first bytes that are read; ``None``: all.

    Raises:
        OSError: if it cannot be read.
    """
    with file.open("rb") as opened:
        if size is None:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        return hashlib.sha256(opened.read(size)).hexdigest()
