"""Strict reading of files of JSON: one object, or one object for each line."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_ray.leyline.files.regular import open_regular

LINE_BYTES = 2**24
"""Greatest length of a line; a longer one is not read into memory."""
SKIPPED_BYTES = 2**28
"""Greatest length of a line that is skipped; after a longer one the rest of the file is not read."""
OBJECT_BYTES = 2**26
"""Greatest size of a file that holds one object."""
SHOWN = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file of JSON."""

    number: int
    """Counted from 1."""
    begin: int
    """Number of bytes before it."""
    content: bytes
    """Its bytes, the end of the line included; empty if it is too long."""
    record: dict[str, Any]
    """The object in it; empty if it has a problem."""
    problem: str | None = None
    """What is wrong with it, as the rest of a sentence about the line."""
    torn: bool = False
    """Whether it is the last line and has no end."""


def json_lines(path: Path) -> Iterator[Line]:
    """Every line of the file ``path``.

    Raises:
        OSError: if it cannot be read.
        ValueError: if a line is longer than ``SKIPPED_BYTES``, as the rest of a sentence about the file.
    """
    with open_regular(path) as file:
        number = end = 0
        while content := file.readline(LINE_BYTES):
            number, begin, piece = number + 1, end, content
            end += len(piece)
            while len(piece) == LINE_BYTES and not piece.endswith(b"\n"):
                content, piece = b"", file.readline(LINE_BYTES)
                end += len(piece)
                if end - begin > SKIPPED_BYTES:
                    raise ValueError(f"cannot be read: line {number} is longer than {SKIPPED_BYTES} bytes")
            if not (piece or content).endswith(b"\n"):
                yield Line(number, begin, content, {}, "is cut off: it has no end", torn=True)
            elif not content:
                yield Line(number, begin, content, {}, f"is longer than {LINE_BYTES} bytes")
            else:
                yield _line(number, begin, content)


def _line(number: int, begin: int, content: bytes) -> Line:
    try:
        return Line(number, begin, content, json_object(content))
    except ValueError as error:
        return Line(number, begin, content, {}, str(error))


def json_object(content: bytes) -> dict[str, Any]:
    """The JSON object in ``content``, with finite numbers and without duplicate keys.

    Raises:
        ValueError: with what ``content`` is not, as the rest of a sentence about it.
    """
    try:
        value = json.loads(
            content.decode(), parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("is not read: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error!s:.200}") from None
    if not isinstance(value, dict):
        raise ValueError(f"is not an object: it is {_shown(value)}")
    if b"\\ud" in content.lower():
        _check_text(value)
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file ``path``.

    Raises:
        ValueError: if the file is missing, cannot be read or holds something else, as the rest of a sentence about it.
    """
    return json_object(read_content(path))


def read_content(path: Path) -> bytes:
    """Content of a file of at most ``OBJECT_BYTES``.

    Raises:
        ValueError: if the file is missing, cannot be read or is longer, as the rest of a sentence about it.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(OBJECT_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    if len(content) > OBJECT_BYTES:
        raise ValueError(f"is longer than {OBJECT_BYTES} bytes")
    return content


def check_file(path: Path) -> None:
    """Check that ``path`` is a file: reading a pipe or a device might never end.

    Raises:
        ValueError: if not, as the rest of a sentence about it.
    """
    try:
        if not path.exists():
            raise ValueError("is missing")
        if not path.is_file():
            raise ValueError("is a folder" if path.is_dir() else "is not a regular file")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error


def _shown(value: Any) -> str:
    """A short text for a value of JSON."""
    return f"a list of {len(value)}" if isinstance(value, list) and value else f"{json.dumps(value):.{SHOWN}}"


def _check_text(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8: it holds half of a surrogate pair") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.{SHOWN}} is too large")
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r:.{SHOWN}} is doubled")
    return mapping
