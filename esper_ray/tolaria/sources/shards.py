"""Search for the Parquet files of a data set in a folder.

Files that are incomplete or ambiguous are refused.

A split is one file (``train.parquet``), shards (``train-00000-of-00002.parquet``, ``train-0.parquet``) or a folder of
numbered files (``train/0000.parquet``), as Hugging Face publishes and converts them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

SHARD = re.compile(r"(?P<split>[a-z]+)-(?P<index>\d{1,6})-of-(?P<total>\d{1,6})(-[0-9a-f]+)?\.parquet")
"""Shard with the number of all; older downloads carry a hash."""
NUMBERED = re.compile(r"((?P<split>[a-z]+)[-_])?(?P<index>\d{1,6})\.parquet")
"""Numbered file, in the folder of its split or with its name."""
MOST_FOLDERS = 1000
"""Maximum number of folders that are searched."""
DEPTH = 8
"""Depth of the search for the hint of a message; a download of converted files has 5 folders in one another."""


def split_files(folder: Path, split: str) -> list[Path]:
    """The Parquet files of ``split`` in ``folder``, in order; empty if there are none.

    Raises:
        FileNotFoundError: if shards are missing.
        ValueError: if files exclude each other, so that data might be read twice, or their names are unknown.
    """
    paths = sorted(folder.glob(f"{split}*.parquet"))
    inside = sorted((folder / split).glob("*.parquet")) if (folder / split).is_dir() else []
    if paths and inside:
        raise ValueError(f"{folder} holds {_names(paths)} and {split}/{inside[0].name}; keep one of them")
    paths = paths or inside
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path} is not a file")
    if len(paths) == 1 and paths[0].name == f"{split}.parquet":
        return paths
    if any(path.name == f"{split}.parquet" for path in paths):
        raise ValueError(
            f"{paths[0].parent} holds {_names(paths)}: data would be read twice; keep {split}.parquet or the others"
        )
    shards = [SHARD.fullmatch(path.name) for path in paths]
    if any(match is not None and match["split"] == split for match in shards):
        return _complete(paths, shards, split)
    return _consecutive(paths, split)


def nested_folders(folder: Path, splits: Sequence[str]) -> list[Path]:
    """Folders in ``folder`` with Parquet files of ``splits``, such as ``plain_text`` or ``data``."""
    return [inner for inner in _folders(folder) if inner.name not in splits and _has_files(inner, splits)]


def parquet_hint(folder: Path) -> str:
    """Places of Parquet files below ``folder``, as the end of a message; empty without any."""
    places = []
    for parent, names, files in islice(os.walk(folder), MOST_FOLDERS):
        deep = len(Path(parent).relative_to(folder).parts)
        names[:] = sorted(name for name in names if not name.startswith(".") and deep < DEPTH)
        found = sorted(name for name in files if name.endswith(".parquet"))
        if found:
            places.append(f"{parent} ({', '.join(found[:2])}{', ...' if len(found) > 2 else ''})")
    if not places:
        return ""
    return f"; there are Parquet files in {', '.join(places[:3])}{', ...' if len(places) > 3 else ''}"


def _complete(paths: list[Path], matches: Sequence[re.Match[str] | None], split: str) -> list[Path]:
    """Shards of one set, in order."""
    folder, shards = paths[0].parent, dict[int, Path]()
    totals = {int(match["total"]) for match in matches if match is not None}
    for path, match in zip(paths, matches, strict=True):
        if match is None or match["split"] != split:
            raise ValueError(
                f"{path} is not a shard like {split}-00000-of-00002.parquet, but other files in {folder} are; remove it"
            )
        twin = shards.setdefault(int(match["index"]), path)
        if len(totals) > 1 or twin != path:
            raise ValueError(f"{folder} holds shards of different sets: {_names(paths)}; keep those of one")
    (total,) = totals
    missing = [index for index in range(total) if index not in shards]
    if missing:
        names = ", ".join(f"{split}-{index:05d}-of-{total:05d}.parquet" for index in missing[:3])
        raise FileNotFoundError(
            f"{len(missing)} of {total} shards are missing in {folder}: {names}{', ...' if len(missing) > 3 else ''}; "
            "complete the download"
        )
    if len(shards) > total:
        raise ValueError(f"{folder} holds {len(shards)} shards of {total}: {_names(paths)}")
    return [shards[index] for index in sorted(shards)]


def _consecutive(paths: list[Path], split: str) -> list[Path]:
    """Numbered files without a gap, in order, from 0 or 1."""
    numbers = dict[int, Path]()
    for path in paths:
        match = NUMBERED.fullmatch(path.name)
        if match is None or match["split"] not in (None if path.parent.name == split else split, split):
            raise ValueError(
                f"{path}: an unknown name; Parquet files are {split}.parquet, {split}-00000-of-00002.parquet, "
                f"{split}-0.parquet or {split}/0000.parquet"
            )
        twin = numbers.setdefault(int(match["index"]), path)
        if twin != path:
            raise ValueError(f"{path.parent} holds {twin.name} and {path.name} with the same number; keep one")
    start = min(numbers, default=0)
    if start > 1 or sorted(numbers) != list(range(start, start + len(numbers))):
        raise FileNotFoundError(
            f"numbered files are missing in {paths[0].parent}, which holds {_names(paths)}; complete the download"
        )
    return [numbers[index] for index in sorted(numbers)]


def _folders(folder: Path) -> Iterator[Path]:
    inside = islice(folder.iterdir(), MOST_FOLDERS)
    yield from sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))


def _has_files(folder: Path, splits: Sequence[str]) -> bool:
    patterns = [pattern for split in splits for pattern in (f"{split}*.parquet", f"{split}/*.parquet")]
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:4]) + (", ..." if len(paths) > 4 else "")
