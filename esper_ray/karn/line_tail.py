"""The growing end of a file of lines that another process writes, cuts or replaces."""

import os
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 2**20
"""Most bytes that one call reads."""
LINE_BYTES = 2**24
"""Greatest length of a line; a longer one is skipped, and counted as a line without content."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines that a file has gained."""

    replaced: bool
    """Whether the file is another one than before, or was cut: these are its first lines."""
    lines: tuple[tuple[int, bytes], ...]
    """Numbers from 1, and contents without their end. A line that is too long is empty."""
    more: bool
    """Whether there is more to read at once."""


class LineTail:
    """Reader of the new lines of a file. A line without an end is left for later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None
        """Device and inode."""
        self._offset, self._number = 0, 0
        self._rest, self._skipping = b"", False

    def poll(self) -> Lines:
        """The new lines, at most about ``READ_BYTES``. A missing file has none.

        Raises:
            OSError: if the file cannot be read.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            replaced = self._file is not None
            self._restart(None)
            return Lines(replaced, (), more=False)
        try:
            status = os.fstat(descriptor)
            file = (status.st_dev, status.st_ino)
            replaced = file != self._file or status.st_size < self._offset
            if replaced:
                self._restart(file)
            content = os.pread(descriptor, READ_BYTES, self._offset)
            self._offset += len(content)
            return Lines(replaced, tuple(self._whole(content)), more=self._offset < status.st_size)
        finally:
            os.close(descriptor)

    def _restart(self, file: tuple[int, int] | None) -> None:
        self._file, self._offset, self._number = file, 0, 0
        self._rest, self._skipping = b"", False

    def _whole(self, content: bytes) -> list[tuple[int, bytes]]:
        *lines, self._rest = (self._rest + content).split(b"\n")
        found = []
        for line in lines:
            self._number += 1
            found.append((self._number, b"" if self._skipping else line))
            self._skipping = False
        if len(self._rest) > LINE_BYTES:
            self._rest, self._skipping = b"", True
        return found
