"""Storage of files under one folder, local or on a file system of pyarrow.

pyarrow has S3, GCS, HDFS and others.

Writing is atomic: a local file is renamed into its place, an object appears in its store when it is closed.
"""

import os
import uuid
from pathlib import Path

from pyarrow import ArrowException, fs

from esper_ray.leyline.errors import UserError

_HIDDEN = "."
"""Prefix of files that are being written."""

_FLAT = ("s3", "gcs")
"""Object stores: they have no folders, and creating one would cost a request for each part of a path."""


class StorageError(UserError):
    """A place that cannot be reached, read or written."""

    remedy = "Check that the place exists and that this machine may read and write it."


class Storage:
    """Small files by name, below ``place``. Names are relative and use ``/``."""

    def __init__(self, place: str | Path) -> None:
        """
        Args:
            place: a folder of this machine, or a URI such as ``s3://bucket/folder?region=eu-central-1``.

        Raises:
            StorageError: if the scheme of the URI is unknown.
        """
        self.place = str(place)
        try:
            if "://" in self.place:
                self._files, self._root = fs.FileSystem.from_uri(self.place)
            else:
                self._files, self._root = fs.LocalFileSystem(), str(Path(place).absolute())
        except (ArrowException, OSError, ValueError) as error:
            raise StorageError(f"storage {self.place} cannot be used: {error}") from error
        self.local = isinstance(self._files, fs.LocalFileSystem)

    def within(self, folder: str) -> "Storage":
        """Storage of a folder of this one."""
        inner = object.__new__(Storage)
        inner.place = place_within(self.place, folder)
        inner._files, inner._root, inner.local = self._files, f"{self._root.rstrip('/')}/{folder}", self.local
        return inner

    def check(self) -> None:
        """Check that files can be written, read and removed.

        Raises:
            StorageError: if they cannot, with the reason.
        """
        name = f"{_HIDDEN}probe-{uuid.uuid4().hex}"
        self.write(name, b"probe")
        if self.read(name) != b"probe":
            raise StorageError(f"storage {self.place} returns other data than were written")
        self.remove(name)

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file.

        Raises:
            StorageError: if it cannot be written.
        """
        path = self._path(name)
        try:
            if self.local:
                _write_locally(Path(path), data)
            else:
                if self._files.type_name not in _FLAT:
                    self._files.create_dir(path.rpartition("/")[0], recursive=True)
                with self._files.open_output_stream(path) as stream:
                    stream.write(data)
        except (ArrowException, OSError) as error:
            raise StorageError(f"storage {self.place}: {name} cannot be written: {error}") from error

    def read(self, name: str) -> bytes | None:
        """Content of a file; ``None`` if it does not exist.

        Raises:
            StorageError: if it exists and cannot be read.
        """
        try:
            with self._files.open_input_stream(self._path(name)) as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        except (ArrowException, OSError) as error:
            raise StorageError(f"storage {self.place}: {name} cannot be read: {error}") from error
        return content

    def stamp(self, name: str) -> str | None:
        """Version of a file, from its time and size; ``None`` if it does not exist.

        An object store has a resolution of one second: two writes of equal size within it have the same stamp.
        """
        try:
            info = self._files.get_file_info(self._path(name))
        except (ArrowException, OSError) as error:
            raise StorageError(f"storage {self.place}: {name} cannot be examined: {error}") from error
        return None if info.type is fs.FileType.NotFound else f"{info.mtime_ns}:{info.size}"

    def names(self, folder: str = "") -> list[str]:
        """Files and folders directly in ``folder``, sorted; none if it does not exist."""
        path = self._path(folder) if folder else self._root
        try:
            entries = self._files.get_file_info(fs.FileSelector(path, allow_not_found=True))
        except (ArrowException, OSError) as error:
            raise StorageError(f"storage {self.place} cannot be listed: {error}") from error
        return sorted(info.base_name for info in entries if not info.base_name.startswith(_HIDDEN))

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with its content, if it exists."""
        path = self._path(name)
        try:
            kind = self._files.get_file_info(path).type
            if kind is fs.FileType.Directory:
                self._files.delete_dir(path)
            elif kind is not fs.FileType.NotFound:
                self._files.delete_file(path)
        except FileNotFoundError:  # another process was faster
            return
        except (ArrowException, OSError) as error:
            raise StorageError(f"storage {self.place}: {name} cannot be removed: {error}") from error

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if not name or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"a name in a storage is relative and has no empty or dotted parts, got {name!r}")
        return f"{self._root.rstrip('/')}/{name}"


def place_within(place: str, folder: str) -> str:
    """Place of a folder in ``place``; the options of a URI stay behind its path."""
    path, mark, options = place.partition("?") if "://" in place else (place, "", "")
    return f"{path.rstrip('/')}/{folder}{mark}{options}"


def split_place(place: str) -> tuple[str, str]:
    """Parent and name of ``place``; the inverse of ``place_within``."""
    path, mark, options = place.partition("?") if "://" in place else (place, "", "")
    parent, _, name = path.rstrip("/").rpartition("/")
    return f"{parent}{mark}{options}", name


def _write_locally(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_HIDDEN}{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def checked_storage(place: str) -> str:
    """``place`` in a form that is valid on every node.

    Raises:
        StorageError: if files cannot be written there.
    """
    full = place if "://" in place else str(Path(place).absolute())
    Storage(full).check()
    return full
