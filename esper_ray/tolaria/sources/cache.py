"""Cache of decoded arrays on disk.

An entry is one safetensors file, named by the SHA-256 of its inputs. Nothing in it is
unpickled. Writes are atomic, so any number of processes may read and write at once.
"""

import hashlib
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.user_cache import CACHE_VARIABLE, named_cache, user_cache

Arrays = dict[str, NDArray[Any]]

CHUNK = 1 << 20
"""Bytes that are hashed per read."""


class CacheError(UserError, ValueError):
    """A configured cache folder that cannot be written."""

    remedy = "Choose a folder that this process may write, or leave the cache folder out."


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of decoded arrays."""

    folder: Path
    chosen: str | None = None
    """Setting that names the folder; ``None`` for the default one, which is optional."""

    def arrays(self, key: str, make: Callable[[], Arrays], fits: Callable[[Arrays], bool]) -> Arrays:
        """The arrays of ``make``, from disk if they are cached.

        Args:
            key: :func:`cache_key` of all inputs of ``make``.
            fits: whether arrays have the names, shapes and types that ``make`` gives. An entry that does not fit,
                cannot be read or fails its checksum is removed with a warning and made again.

        Raises:
            CacheError: if there is no entry yet, and the folder was chosen and cannot be written.
        """
        path = self.folder / f"{key}.safetensors"
        cached = _read(path, fits)
        if cached is not None:
            return cached
        temporary = self.folder / f".{key[:16]}-{uuid4().hex}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
        except OSError as error:  # fail before minutes of decoding, not after
            self._refuse(error)
            return make()
        try:
            arrays = make()
            try:
                _write(temporary, path, arrays)
            except OSError as error:
                self._refuse(error)
            return arrays
        finally:
            temporary.unlink(missing_ok=True)

    def _refuse(self, error: OSError) -> None:
        if self.chosen is not None:
            raise CacheError(
                f"the cache folder {self.folder} ({self.chosen}) cannot be written: {error}; choose one that can, "
                f"with task.cache_dir or the environment variable {CACHE_VARIABLE}"
            ) from error
        warnings.warn(
            f"decoded data is not kept, for the cache folder {self.folder} cannot be written: {error}; "
            f"choose another with task.cache_dir or {CACHE_VARIABLE}",
            RuntimeWarning,
            stacklevel=4,
        )


def cache_at(cache_dir: Path | None) -> Cache:
    """The cache in ``cache_dir``, else in ESPER_RAY_CACHE, else in the user's cache folder.

    The user's folder is ``esper-ray`` in XDG_CACHE_HOME, or in ``~/.cache``.
    """
    if cache_dir is not None:
        return Cache(cache_dir, "task.cache_dir")
    named = named_cache()
    return Cache(user_cache()) if named is None else Cache(named, CACHE_VARIABLE)


def cache_key(decoder: str, version: int, sources: Mapping[str, Path | bytes]) -> str:
    """SHA-256, in hexadecimal, over the decoder, its version, and its named inputs.

    Args:
        sources: files, or their content, by role. The location of files does not matter.
    """
    whole = hashlib.sha256(f"{decoder} {version}".encode())
    for name, digest in content_digests(sources).items():
        whole.update(f"\n{name} {digest}".encode())
    return whole.hexdigest()


def content_digests(sources: Mapping[str, Path | bytes]) -> dict[str, str]:
    """SHA-256, in hexadecimal, of each file or content, by role."""
    digests = {}
    for name, source in sources.items():
        content = hashlib.sha256()
        for chunk in _chunks(source):
            content.update(chunk)
        digests[name] = content.hexdigest()
    return digests


def _chunks(source: Path | bytes) -> Iterable[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _read(path: Path, fits: Callable[[Arrays], bool]) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays: Arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            recorded = (file.metadata() or {}).get("crc32")
        if recorded == _checksum(arrays) and fits(arrays):
            return arrays
        reason = "its content is not what was written"
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        reason = str(error)
    warnings.warn(f"the cache file {path} is damaged ({reason}); it is made again", RuntimeWarning, stacklevel=5)
    with suppress(OSError):  # the write reports whether it can be replaced
        path.unlink(missing_ok=True)
    return None


def _write(temporary: Path, path: Path, arrays: Arrays) -> None:
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with temporary.open("wb") as file:
        file.write(save(plain, metadata={"crc32": _checksum(plain)}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _checksum(arrays: Arrays) -> str:
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"
