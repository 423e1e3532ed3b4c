"""Storage of files under one folder, local or on a file system of pyarrow.

pyarrow has S3, GCS, HDFS and others.

Writing is atomic: a local file is renamed into its place, an object appears in its store when it is closed.
"""

import re
import uuid
from pathlib import Path

from pyarrow import ArrowException, fs

from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.durable import WriteError, changing, write_file
from esper_ray.leyline.process.credentials import masked, without_credentials

_HIDDEN = "."
"""Prefix of files that are being written."""

MOST_BYTES = 2**34
"""Greatest size of a file that is read."""
_LIKE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(:|%3A)(/|%2F)", re.IGNORECASE)
"""Beginning of a local path that is a URI with too few slashes or with encoded signs."""
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
        self.full_place = str(place)
        """The place with the credentials that its URI has; never written or shown."""
        self.place = without_credentials(self.full_place)
        """The place as it is written and shown."""
        try:
            if "://" in self.full_place:
                self._files, self._root = fs.FileSystem.from_uri(self.full_place)
            else:
                self._files, self._root = fs.LocalFileSystem(), str(Path(place).absolute())
        except (ArrowException, OSError, ValueError) as error:
            raise self._failure(" cannot be used", error) from None  # the error quotes the whole URI
        self.local = isinstance(self._files, fs.LocalFileSystem)

    @property
    def folder(self) -> Path:
        """The folder of a local storage."""
        return Path(self._root)

    def within(self, folder: str) -> "Storage":
        """Storage of a folder of this one."""
        inner = object.__new__(Storage)
        inner.full_place, inner.place = place_within(self.full_place, folder), place_within(self.place, folder)
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
                with changing(Path(path).parent):
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                write_file(Path(path), data)
            else:
                if self._files.type_name not in _FLAT:
                    self._files.create_dir(path.rpartition("/")[0], recursive=True)
                with self._files.open_output_stream(path) as stream:
                    stream.write(data)
        except WriteError as error:
            raise StorageError(f"storage {self.place}: {error}") from error
        except (ArrowException, OSError) as error:
            raise self._failure(f": {name} cannot be written", error) from error

    def read(self, name: str) -> bytes | None:
        """Content of a file; ``None`` if it does not exist.

        Raises:
            StorageError: if it exists and cannot be read.
        """
        path = self._path(name)
        try:
            if self.local:
                _check_readable(self._files.get_file_info(path))
            with self._files.open_input_stream(path) as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        except (ArrowException, OSError) as error:
            raise self._failure(f": {name} cannot be read", error) from error
        return content

    def stamp(self, name: str) -> str | None:
        """Version of a file, from its time and size; ``None`` if it does not exist.

        An object store has a resolution of one second: two writes of equal size within it have the same stamp.
        """
        try:
            info = self._files.get_file_info(self._path(name))
        except (ArrowException, OSError) as error:
            raise self._failure(f": {name} cannot be examined", error) from error
        return None if info.type is fs.FileType.NotFound else f"{info.mtime_ns}:{info.size}"

    def names(self, folder: str = "") -> list[str]:
        """Files and folders directly in ``folder``, sorted; none if it does not exist."""
        path = self._path(folder) if folder else self._root
        try:
            entries = self._files.get_file_info(fs.FileSelector(path, allow_not_found=True))
        except (ArrowException, OSError) as error:
            raise self._failure(" cannot be listed", error) from error
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
            raise self._failure(f": {name} cannot be removed", error) from error

    def _failure(self, what: str, error: Exception) -> StorageError:
        """A failed access as an error without credentials."""
        return StorageError(f"storage {self.place}{what}: {masked(str(error), self.full_place)}")

    def check_surroundings(self) -> None:
        """Check that the folder around a local storage has not been removed.

        A write would make it again.

        Raises:
            StorageError: if it does not exist.
        """
        if self.local and not Path(self._root).parent.is_dir():
            raise StorageError(f"storage {self.place}: {Path(self._root).parent} does not exist")

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if not name or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"a name in a storage is relative and has no empty or dotted parts, got {name!r}")
        return f"{self._root.rstrip('/')}/{name}"


def _check_readable(info: fs.FileInfo) -> None:
    """
    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it is not a file, such as a pipe, whose reading may never end, or has more than ``MOST_BYTES``.
    """
    if info.type is fs.FileType.NotFound:
        raise FileNotFoundError(info.path)
    if info.type is not fs.FileType.File:
        raise OSError(f"{info.path} is not a regular file")
    if info.size > MOST_BYTES:
        raise OSError(f"{info.path} has {info.size} bytes; at most {MOST_BYTES} are read")


def place_within(place: str, folder: str) -> str:
    """Place of a folder in ``place``; the options of a URI stay behind its path."""
    path, mark, options = place.partition("?") if "://" in place else (place, "", "")
    return f"{path.rstrip('/')}/{folder}{mark}{options}"


def split_place(place: str) -> tuple[str, str]:
    """Parent and name of ``place``; the inverse of ``place_within``."""
    path, mark, options = place.partition("?") if "://" in place else (place, "", "")
    parent, _, name = path.rstrip("/").rpartition("/")
    return f"{parent}{mark}{options}", name


def check_place(place: str, run: Path | None = None) -> None:
    """Check that ``place`` names a folder that can hold a copy of ``run``. Nothing is written.

    Args:
        run: directory of the run; ``None``: any run.

    Raises:
        StorageError: if ``place`` is blank, the root of the file system or a URI with too few slashes; or if the run
            directory and its copy would be one folder, or one within the other.
    """
    if not place.strip():
        raise StorageError(f"storage {place!r}: it is blank; give a folder or a URI")
    shown = without_credentials(place)
    if "://" not in place and _LIKE_URI.match(place):
        raise StorageError(f"storage {shown}: it is neither a folder nor a URI, which has :// behind its scheme")
    if "://" in place and re.search(r"[#;]", place):
        raise StorageError(f"storage {shown}: such a URI has no # and no ;, and its options stand behind one ?")
    storage = Storage(place)
    if not storage.local:
        return
    if storage.folder.resolve() == Path("/"):
        raise StorageError(f"storage {storage.place}: it is the root of the file system; give a folder")
    if run is not None:
        copy, original = (storage.folder / (run.name or run.resolve().name)).resolve(), run.resolve()
        if copy.is_relative_to(original) or original.is_relative_to(copy):
            raise StorageError(
                f"storage {storage.place}: the copy of {run} would be {copy}; give a folder that is apart from it"
            )


def checked_storage(place: str, run: Path | None = None) -> str:
    """``place`` in a form that is valid on every node, with its credentials.

    Args:
        run: directory of the run that is copied; ``None``: any run.

    Raises:
        StorageError: if it cannot hold a copy, see :func:`check_place`, or files cannot be written there.
    """
    check_place(place, run)
    full = place if "://" in place else str(Path(place).absolute())
    Storage(full).check()
    return full
