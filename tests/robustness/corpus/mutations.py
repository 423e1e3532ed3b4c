"""Seeded damage of files and of JSON text."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from damage_builders import flipped, other_values, places, value_at, with_value, without

Damage = Callable[[Path], Any]
FOREIGN = {
    "empty": b"",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix.",
    "UTF-16": "a: 1\n".encode("utf-16"),
    "a byte 0xff": b"\xff",
    "NUL bytes": bytes(4096),
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "a number": b"5",
    "100,000 brackets": b"[" * 100_000,
    "2,000 levels": b'{"a":' * 2000 + b"1" + b"}" * 2000,
    "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "half a surrogate": b'{"a": "\\ud800"}',
    "a zip file": b"PK\x03\x04" + bytes(60),
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
}
"""Contents of files of another kind."""


def pick(rng: np.random.Generator, values: Any) -> Any:
    """One of ``values``, which can be of any type."""
    values = list(values)
    return values[int(rng.integers(len(values)))]


def replace(path: Path, content: bytes) -> None:
    """Replace a file, which may be a hard link of another one."""
    if path.is_symlink() or path.exists():
        path.unlink()
    path.write_bytes(content)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder that shares its files: damage replaces them."""
    return Path(shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True))


def in_place_of(path: Path, kind: str) -> None:
    """Something else that is not a file under the name of one."""
    remove(path)
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    elif kind == "a link to nothing":
        path.symlink_to("nothing-there")
    elif kind == "a link to an endless device":
        path.symlink_to("/dev/zero")
    elif kind == "a huge file with a hole":
        with path.open("wb") as file:
            file.truncate(1 << 42)
    else:
        assert kind == "nothing", kind


PLACES = (
    *("nothing", "a folder", "a pipe", "a link to itself", "a link to nothing", "a link to an endless device"),
    "a huge file with a hole",
)


def file_damage(rng: np.random.Generator, name: str, size: int) -> tuple[str, Damage]:
    """A description and a damage of the bytes or of the kind of the file ``name`` of ``size`` bytes."""
    kind = pick(rng, ["bit", "bit", "bit", "cut", "cut", "longer", "block", "swap", "foreign", "place"])
    place, bit, rest = int(rng.integers(max(size, 1))), int(rng.integers(8)), int(rng.integers(1, 64))
    if kind == "bit":
        return f"{name}: bit {bit} of byte {place}", changed(
            name, lambda data: flipped(data or b"\0", place % max(len(data), 1), bit)
        )
    if kind == "cut":
        return f"{name}: cut at byte {place}", changed(name, lambda data: data[:place])
    if kind == "longer":
        return f"{name}: {rest} bytes longer", changed(name, lambda data: data + bytes(rest))
    if kind == "block":
        return f"{name}: {rest} bytes from {place} zero", changed(
            name, lambda data: data[:place] + bytes(len(data[place : place + rest])) + data[place + rest :]
        )
    if kind == "swap":
        return f"{name}: {rest} bytes from {place} doubled", changed(
            name, lambda data: data[: place + rest] + data[place:]
        )
    if kind == "foreign":
        other = pick(rng, FOREIGN)
        return f"{name}: {other}", changed(name, lambda data: FOREIGN[other])
    other = pick(rng, PLACES)
    return f"{name}: {other} in its place", lambda folder: in_place_of(folder / name, other)


def changed(name: str, change: Callable[[bytes], bytes]) -> Damage:
    """A damage that replaces the content of the file ``name``."""
    return lambda folder: replace(folder / name, change((folder / name).read_bytes()))


def tree_damage(rng: np.random.Generator, tree: Any, most: int = 3) -> tuple[str, tuple[Any, ...], Any]:
    """A description, the place and the changed copy of a JSON tree."""
    paths = list(places(tree, most=most))
    path = pick(rng, paths)
    shown = ".".join(map(str, path))
    kind = pick(rng, ["value", "value", "value", "value", "without", "more", "deep"])
    if kind == "without":
        return f"without {shown}", path, without(tree, path)
    if kind == "more" and isinstance(path[-1], str):
        key = (*path[:-1], f"{path[-1]}_{int(rng.integers(1000))}")
        return f"more: {'.'.join(map(str, key))}", key, with_value(tree, key, value_at(tree, path))
    if kind == "deep":
        levels, value = int(rng.integers(2, 200)), value_at(tree, path)
        for _ in range(levels):
            value = [value] if levels % 2 else {"a": value}
        return f"{shown}: {levels} levels deeper", path, with_value(tree, path, value)
    value = pick(rng, other_values(tree, path))
    return f"{shown} = {value!r:.40}", path, with_value(tree, path, value)


def doubled_key(rng: np.random.Generator, text: str) -> tuple[str, str]:
    """A description, and JSON text with one line of ``"key": value`` doubled."""
    lines = text.splitlines(keepends=True)
    numbers = [
        i for i, line in enumerate(lines) if line.lstrip().startswith('"') and ": " in line and line.endswith(",\n")
    ]
    numbers = [i for i in numbers if not lines[i].rstrip().endswith(("{", "["))]
    number = pick(rng, numbers)
    return f"line {number + 1} doubled", "".join([*lines[: number + 1], lines[number], *lines[number + 1 :]])


def as_json(tree: Any) -> bytes:
    """JSON with lines, as files of runs are written."""
    return (json.dumps(tree, indent=2) + "\n").encode()
