"""Reading of regular files. A pipe or a device under the name of one might never end."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 1 << 26
"""Bytes of a file that is read as a whole."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read bytes.

    Raises:
        OSError: if it cannot be opened, or is a folder, a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most: int = MOST_BYTES) -> bytes:
    """Content of a regular file of at most ``most`` bytes.

    Raises:
        OSError: if it cannot be read, is longer, or is not a regular file.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is longer than {most} bytes", str(path))
    return content
