"""Codec for files of tensors and JSON: a safetensors blob with kind, version and digest.

The header's metadata has one entry, ``esper``: an envelope ``{"kind", "version", "sha256", "content"}`` as JSON text.
``content`` is any JSON tree; the digest covers it, the names, types and shapes of the tensors, and their bytes.
A damaged or foreign blob is refused, and so is a tensor that a file cannot hold exactly. Nothing is unpickled. This
module does not need torch: a format of torch tensors uses the module ``safetensors.torch`` as its library.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from safetensors import SafetensorError

from esper_ray.leyline.files.durable import write_file
from esper_ray.leyline.files.tensors import RESERVED_NAME as METADATA
from esper_ray.leyline.files.tensors import dense, unwritable

ENVELOPE = "esper"
"""Key of the envelope in the metadata of a safetensors header."""
MOST_BYTES = 2**34
"""Greatest size of a file that is read."""
ALIGNMENT = 8
"""Bytes; the data of a safetensors file begin at a multiple of it."""

T = TypeVar("T")


class TensorLibrary(Protocol[T]):
    """One of the modules ``safetensors.numpy`` and ``safetensors.torch``."""

    def save(self, tensors: dict[str, T], /) -> bytes:
        """The tensors as a safetensors file without metadata."""

    def load(self, data: bytes, /) -> dict[str, T]:
        """The tensors of a safetensors file, by name."""


@dataclass(frozen=True, slots=True)
class Blob(Generic[T]):
    """Decoded blob: tensors by name, and a JSON tree."""

    tensors: dict[str, T]
    content: Any


def prefixed(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """``tensors`` with ``prefix`` before each name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors whose names begin with ``prefix``, by the rest of the name."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True, slots=True)
class BlobFormat(Generic[T]):
    """Format of one kind and version of blob, with the class of its errors."""

    kind: str
    version: int
    error: type[Exception]
    library: TensorLibrary[T]

    def encode(self, tensors: Mapping[str, T], content: Any) -> bytes:
        """The blob as bytes. Equal arguments in equal order give equal bytes.

        Args:
            tensors: numpy arrays or torch tensors, of any memory layout.
            content: a JSON tree with text as keys. NaN and infinities are numbers here.

        Raises:
            error: if a tensor cannot be written exactly, such as a sparse one; with its name and the reason.
        """
        self.check_writable(tensors)
        plain = self.library.save(dense(tensors))
        start = _data_start(plain)
        descriptors = json.loads(plain[ALIGNMENT:start])
        envelope = self.seal(content, json.dumps(descriptors).encode(), memoryview(plain)[start:])
        header = json.dumps({METADATA: {ENVELOPE: json.dumps(envelope)}, **descriptors}).encode()
        header += b" " * (-len(header) % ALIGNMENT)
        return b"".join((struct.pack("<Q", len(header)), header, memoryview(plain)[start:]))

    def check_writable(self, tensors: Mapping[str, T]) -> None:
        """Check that a file can hold every tensor exactly.

        Raises:
            error: if one cannot be written, such as a sparse one; with its name and the reason.
        """
        for name, tensor in tensors.items():
            reason = unwritable(name, tensor)
            if reason is not None:
                raise self.error(f"{self.kind}: {name!s} cannot be written: {reason}")

    def decode(self, data: bytes, name: str) -> Blob[T]:
        """The parts of the blob ``data``.

        Args:
            name: name of the blob in error messages.

        Raises:
            error: if it is damaged, of another kind, or of another version.
        """
        try:
            start = _data_start(data)
            descriptors = _parsed(data[ALIGNMENT:start])
            text = descriptors.pop(METADATA, {}).get(ENVELOPE, "{}")
            envelope = _parsed(text)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self.error(f"{name} is damaged: its header of {len(data)} bytes in all is {error!r}") from error
        content = self.unseal(envelope, name, json.dumps(descriptors).encode(), memoryview(data)[start:])
        try:
            return Blob(self.library.load(data), content)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise self.error(f"{name} is damaged: {error!r}") from error

    def write(self, path: Path, tensors: Mapping[str, T], content: Any) -> None:
        """Write the blob to ``path`` atomically, through a temporary file in the same folder.

        Raises:
            WriteError: if it cannot be written.
        """
        write_file(path, self.encode(tensors, content))

    def read(self, path: Path, name: str) -> Blob[T]:
        """The parts of the blob at ``path``.

        Raises:
            error: if it cannot be read, and as :meth:`decode` does.
        """
        return self.decode(self.read_bytes(path, name), name)

    def read_bytes(self, path: Path, name: str) -> bytes:
        """The content of the file ``path``.

        Raises:
            error: if it cannot be read, or is a pipe or a device, which may never end.
        """
        try:
            if path.exists() and not path.is_file():
                raise self.error(f"{name} cannot be read: {path} is not a regular file")
            if (size := path.stat().st_size) > MOST_BYTES:
                raise self.error(f"{name} is damaged: {path} has {size} bytes, at most {MOST_BYTES} are read")
            return path.read_bytes()
        except OSError as error:
            raise self.error(f"{name} cannot be read: {error}") from error

    def seal(self, content: Any, *payload: bytes | memoryview) -> dict[str, Any]:
        """The envelope of ``content``, with a digest over it and ``payload``."""
        return {"kind": self.kind, "version": self.version, "sha256": _digest(content, payload), "content": content}

    def unseal_text(self, text: bytes, name: str, *payload: bytes | memoryview) -> Any:
        """The content of an envelope in JSON that belongs to ``payload``.

        Raises:
            error: if it is not JSON, and as :meth:`unseal` does.
        """
        try:
            envelope = _parsed(text)
        except (ValueError, RecursionError) as error:
            raise self.error(f"{name} is damaged: it is not JSON: {error}") from error
        return self.unseal(envelope, name, *payload)

    def unseal(self, envelope: Any, name: str, *payload: bytes | memoryview) -> Any:
        """The content of an envelope that belongs to ``payload``.

        Raises:
            error: if it is damaged, of another kind, or of another version.
        """
        if not isinstance(envelope, dict):
            raise self.error(f"{name} is damaged: its envelope is not a JSON object but {envelope!r:.80}")
        kind, version = envelope.get("kind"), envelope.get("version")
        if (kind, version) != (self.kind, self.version) or isinstance(version, bool):
            raise self.error(
                f"{name} is of kind {kind!r} version {version!r}, expected kind {self.kind!r} version {self.version!r}"
            )
        content, recorded = envelope.get("content"), envelope.get("sha256")
        try:
            present = _digest(content, payload)
        except RecursionError as error:
            raise self.error(f"{name} is damaged: its content is nested too deeply") from error
        if recorded != present:
            raise self.error(
                f"{name} is damaged: the SHA-256 digest of its content differs from the recorded one: it is {present}, "
                f"recorded is {recorded!r:.70}"
            )
        return content


def _parsed(text: str | bytes) -> Any:
    """The JSON tree of ``text``.

    Raises:
        ValueError: if it is not JSON, or an object has a key twice.
        RecursionError: if it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return tree


def _data_start(data: bytes) -> int:
    """Offset in bytes of the tensor data, behind the header.

    Raises:
        ValueError: if ``data`` is shorter than its header.
    """
    length = int.from_bytes(data[:ALIGNMENT], "little")
    start = ALIGNMENT + length
    if not ALIGNMENT < start <= len(data):
        raise ValueError(f"{len(data)} bytes cannot hold a header of {length} bytes")
    return start


def _digest(content: Any, payload: tuple[bytes | memoryview, ...]) -> str:
    digest = hashlib.sha256(json.dumps(content).encode())
    for part in payload:
        digest.update(part)
    return digest.hexdigest()
