"""Exclusive lock of a run directory, held by the process that writes it.

The lock is one of the operating system, on the file ``run.lock`` of the directory: it ends with its process, however
that ends. The file also names the holder.
"""

import errno
import json
import os
import socket
import stat
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, Self

from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.regular import read_regular

POLL_SECONDS = 0.2
FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link is not followed: the file behind it would be emptied."""
LOCK = "run.lock"
"""File in a run directory that the process which writes the run locks."""


class RunLockedError(UserError):
    """A run that another process is writing."""

    remedy = "Wait until the other process has ended, or end it: a run has one writer at a time."


@dataclass(frozen=True, slots=True)
class Holder:
    """Process that holds a lock or a lease."""

    process: int
    host: str
    since: str
    """Time in UTC, ISO 8601."""

    @classmethod
    def here(cls) -> "Holder":
        """This process, since now."""
        return cls(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def parse(cls, tree: Any) -> "Holder | None":
        """The holder in a JSON tree; ``None`` if the tree holds none."""
        names = {"process": int, "host": str, "since": str}
        if not isinstance(tree, dict) or not all(isinstance(tree.get(name), kind) for name, kind in names.items()):
            return None
        return cls(*(tree[name] for name in names))

    def describe(self) -> str:
        """The holder as text."""
        return f"process {self.process} on {self.host} since {self.since}"


class RunLock:
    """Lock of one run, trial or sweep. A second lock in the same process is refused, too."""

    def __init__(self, folder: Path, file: Path | None = None, wait_seconds: float = 0.0) -> None:
        """
        Args:
            folder: of the run.
            file: that is locked; by default ``run.lock`` in the folder.
            wait_seconds: time to wait for another holder.
        """
        self._folder, self._path = folder, file or folder / LOCK
        self._wait_seconds = wait_seconds
        self._file = -1

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunLockedError: if another holder has it, with process, host and time; or the file cannot be written, or
                is a link, a folder, a pipe or a device.
        """
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                self._take()
            except RunLockedError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return

    def _take(self) -> None:
        while self._file < 0:
            file = self._opened()
            try:
                flock(file, LOCK_EX | LOCK_NB)
                if _is_at(file, self._path):  # else the directory was replaced meanwhile
                    os.truncate(file, 0)
                    os.write(file, json.dumps(asdict(Holder.here())).encode())
                    self._file = file
                    return
            except OSError as error:
                os.close(file)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise self._unusable(error.strerror) from error
                raise RunLockedError(f"{self._folder} is being run by {self._holder()}") from None
            os.close(file)

    def _opened(self) -> int:
        try:
            file = os.open(self._path, FLAGS, 0o644)
        except OSError as error:
            reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise self._unusable(reason) from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise self._unusable("it is not a file")
        return file

    def _unusable(self, reason: object) -> RunLockedError:
        return RunLockedError(f"{self._folder} cannot be locked: {self._path}: {reason}")

    def release(self) -> None:
        """Release the lock, if it is held, and remove its file."""
        if self._file >= 0:
            if _is_at(self._file, self._path):
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def _holder(self) -> str:
        try:
            holder = Holder.parse(json.loads(read_regular(self._path)))
        except (OSError, ValueError):
            holder = None
        return "another process" if holder is None else holder.describe()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def _is_at(file: int, path: Path) -> bool:
    """Whether the open ``file`` is the one at ``path``."""
    try:
        there, here = os.stat(path), os.fstat(file)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
