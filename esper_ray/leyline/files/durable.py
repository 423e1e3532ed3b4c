"""Durable writes: the one place where files of runs are written, replaced, extended and removed.

A file or folder appears as a whole: its content is written under a temporary name, flushed to the disk, and renamed.
A growing file is extended in place, after a check that it is what was last written.
"""

import errno
import hashlib
import os
import shutil
import stat
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.digests import FilePrefix

_HIDDEN = "."
"""Prefix of the names of files and folders that are being written."""
FLUSHES = 16
"""Files that are flushed at the same time."""
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems that cannot flush a folder."""


class WriteError(UserError, OSError):
    """A file or folder that cannot be written, or was changed by another process."""

    exit_code = 1
    remedy = "Free the disk, allow writing or put the file back; then resume with the printed command."

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Context of every change of the file system.

    Raises:
        WriteError: instead of an ``OSError``, with ``path`` and the reason.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        failure = WriteError(f"{path} cannot be written: {error.strerror or error}")
        failure.errno, failure.strerror = error.errno, error.strerror
        raise failure from error


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data`` to an open file.

    Raises:
        OSError: if the system refuses a part of it.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_file(path: Path, content: bytes | str, *, flush: bool = True) -> None:
    """Create or replace a file, atomically. Its folder must exist.

    Args:
        flush: whether the new content is on the disk before it replaces the old one.

    Raises:
        WriteError: if it cannot be written, or is a device, a pipe or a socket; then it is what it was.
    """
    temporary = path.with_name(f"{_HIDDEN}{path.name}.{uuid.uuid4().hex}")
    with changing(path):
        _check_replaceable(path)
        try:
            with _created(temporary, content) as descriptor:
                if flush:
                    os.fsync(descriptor)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _check_replaceable(path: Path) -> None:
    """
    Raises:
        OSError: if ``path`` is a device, a pipe or a socket, whose place a file must not take.
    """
    with suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "it is not a file")


def rewrite_file(path: Path, text: str, *, flush: bool = True) -> None:
    """Replace a file atomically. Where a full disk takes no new file, it is overwritten in place, padded with blanks.

    Args:
        flush: see :func:`write_file`.

    Raises:
        WriteError: if it cannot be written, or the disk is full and ``text`` is longer than the file.
    """
    try:
        write_file(path, text, flush=flush)
    except WriteError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        try:
            _overwrite(path, text)
        except WriteError:
            raise error from None


def _overwrite(path: Path, text: str) -> None:
    data = text.encode()
    with changing(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if len(data) > size:
                raise WriteError(f"{path} cannot be written: it has {size} bytes, the new content {len(data)}")
            write_all(descriptor, data.ljust(size))
        finally:
            os.close(descriptor)


def write_folder(path: Path, files: Iterable[tuple[str, bytes | str]]) -> None:
    """Create or replace a folder, atomically. The folder around it must exist.

    Args:
        files: relative names with ``/``, and contents.

    Raises:
        WriteError: if it cannot be written; then it is what it was.
    """
    temporary, replaced = path.with_name(f"{_HIDDEN}{path.name}.tmp"), path.with_name(f"{_HIDDEN}{path.name}.old")
    with changing(path):
        _put_back(replaced, path)
        try:
            for left_over in (temporary, replaced):
                _remove(left_over)
            temporary.mkdir()
            _fill(temporary, files)
            if path.exists():
                os.replace(path, replaced)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                _put_back(replaced, path)
                _remove(temporary)
            raise
        _flush_folder(path.parent)
        _remove(replaced)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of files to a path that does not exist, atomically.

    Raises:
        WriteError: if it cannot be read or written.
    """
    with changing(target):
        paths = sorted(path for path in source.rglob("*") if path.is_file())
        write_folder(target, ((path.relative_to(source).as_posix(), path.read_bytes()) for path in paths))


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists. It leaves its place in one step.

    Raises:
        WriteError: if it cannot be removed.
    """
    hidden = path.with_name(f"{_HIDDEN}{path.name}.old")
    with changing(path):
        if path.is_dir() and not path.is_symlink():
            _remove(hidden)
            os.replace(path, hidden)
            _remove(hidden)
        else:
            path.unlink(missing_ok=True)


class GrowingFile:
    """A file that one process extends, and checks before each change.

    The file is kept open for reading, so that a deleted one can be restored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._expected: tuple[int, int, int] | None = None
        """Device, inode and size after the last change; ``None``: the file is accepted as it is."""
        self._hasher: hashlib._Hash | None = None
        """SHA-256 of the content; ``None`` until it is asked for."""
        self._reader = -1
        self._close: Callable[[], object] = lambda: None

    def append(self, content: str) -> None:
        """Append text. The first call creates a missing file.

        Raises:
            WriteError: if it cannot be written, or is not what was last written. Nothing is appended then.
        """
        data = content.encode()
        with self._opened(os.O_CREAT if self._expected is None else 0) as descriptor:
            size = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, data)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
            if self._hasher is not None:
                self._hasher.update(data)
            self._accept(descriptor)

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes.

        Raises:
            WriteError: see :meth:`append`.
        """
        with self._opened() as descriptor:
            os.ftruncate(descriptor, size)
            self._hasher = self._read(size)
            self._accept(descriptor)

    def replace(self, content: bytes) -> None:
        """Replace the content, atomically. No content needs no flush: the old one may come back.

        Raises:
            WriteError: see :meth:`append`.
        """
        if self._expected is not None:
            with self._opened():
                pass
        write_file(self.path, content, flush=bool(content))
        self._expected = self._hasher = None
        with self._opened() as descriptor:
            self._accept(descriptor)

    def size(self) -> int:
        """Size in bytes.

        Raises:
            WriteError: if the file is not what was last written.
        """
        with self._opened() as descriptor:
            return os.fstat(descriptor).st_size

    def prefix(self) -> FilePrefix:
        """Size and digest of the content. It is read once; then the digest grows with the file.

        Raises:
            WriteError: if the file cannot be read, or is not what was last written.
        """
        size = self.size()
        if self._hasher is None:
            self._hasher = self._read(size)
        return FilePrefix(size=size, sha256=self._hasher.hexdigest())

    def _read(self, size: int) -> "hashlib._Hash":
        """SHA-256 of the first ``size`` bytes."""
        with changing(self.path), self.path.open("rb") as file:
            return hashlib.sha256(file.read(size))

    def flush(self) -> None:
        """Wait until the content is on the disk.

        Raises:
            WriteError: if the disk refuses it.
        """
        if self._expected is not None:
            with self._opened() as descriptor:
                os.fsync(descriptor)

    @contextmanager
    def _opened(self, flags: int = 0) -> Iterator[int]:
        """Descriptor of the file, which has been checked."""
        with changing(self.path):
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o666)
            except FileNotFoundError:
                raise WriteError(self._loss()) from None
            try:
                self._check(descriptor)
                yield descriptor
            finally:
                os.close(descriptor)

    def _check(self, descriptor: int) -> None:
        """
        Raises:
            WriteError: if the file is not what was last written.
        """
        if self._expected is None:
            return
        status = os.fstat(descriptor)
        *file, size = self._expected
        if [status.st_dev, status.st_ino] != file:
            raise WriteError(f"{self.path} was replaced by another file since the run last wrote it; nothing was added")
        if status.st_size != size:
            change = "cut" if status.st_size < size else "extended"
            raise WriteError(
                f"{self.path} was {change} by another process: it has {status.st_size} bytes, the run wrote {size}; "
                "nothing was added"
            )

    def _accept(self, descriptor: int) -> None:
        """Note the state of the file after a change."""
        status = os.fstat(descriptor)
        if self._expected is None or self._expected[:2] != (status.st_dev, status.st_ino):
            self._close()
            self._reader = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._close = weakref.finalize(self, os.close, self._reader)
        self._expected = (status.st_dev, status.st_ino, status.st_size)

    def _loss(self) -> str:
        """What happened to a missing file. One that was deleted is restored if its folder exists."""
        if not self.path.parent.is_dir():
            return f"{self.path.parent} was removed or moved while the run wrote to it"
        if self._expected is None:
            return f"{self.path} does not exist"
        if os.fstat(self._reader).st_nlink:
            return f"{self.path} was moved while the run wrote to it; put it back before resuming"
        write_file(self.path, os.pread(self._reader, self._expected[2], 0))
        return f"{self.path} was deleted while the run wrote to it; its {self._expected[2]} bytes have been restored"


def _put_back(replaced: Path, path: Path) -> None:
    """Undo an interrupted replacement of ``path``."""
    if replaced.exists() and not path.exists():
        os.rename(replaced, path)


def _fill(folder: Path, files: Iterable[tuple[str, bytes | str]]) -> None:
    """Write new files, and flush all at the same time. That costs hardly more than flushing one."""
    with ExitStack() as stack, ThreadPoolExecutor(FLUSHES) as pool:
        flushes = []
        for name, content in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            flushes.append(pool.submit(os.fsync, stack.enter_context(_created(folder / name, content))))
        flushes += [pool.submit(_flush_folder, inner) for inner in (folder, *folder.glob("**/"))]
        for flush in flushes:
            flush.result()


@contextmanager
def _created(path: Path, content: bytes | str) -> Iterator[int]:
    """Descriptor of a new file with ``content``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(descriptor, content.encode() if isinstance(content, str) else content)
        yield descriptor
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
