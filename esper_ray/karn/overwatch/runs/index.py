"""Index of the places in the watched folders: runs, comparisons, sweeps, evaluations.

Names in URLs are looked up here and never joined to a path. A link that leads out of its folder is not followed.
"""

import difflib
import json
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote

from esper_ray.karn.places import MANIFEST, MOST_RUNS, shown_path
from esper_ray.karn.reports.html.comparison_report import VERDICT, sides_of
from esper_ray.karn.reports.html.evaluation_content import EVALUATION
from esper_ray.leyline.errors import UsageError, shortened
from esper_ray.leyline.files.regular import read_regular
from esper_ray.nissa.runs.copies.storage import place_within

PlaceKind = Literal["run", "comparison", "sweep", "evaluation"]
SWEEP = "sweep.json"
LOGS = ("/events", "/samples")
"""Ends of the folders of the parts of a log."""
GROUPS = ("runs", "sweeps", "evaluations", "comparisons")
"""Names of folders of places within a watched folder."""
SCAN_SECONDS = 5.0
"""Seconds between two looks at the folders."""
SEARCH_SECONDS = 1.0
"""The same for a name that the index lacks."""
MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class IndexedPlace:
    """One place of the index."""

    kind: PlaceKind
    id: str
    """Name in URLs, unique among the places of its kind."""
    path: Path
    parent: str = ""
    """Identity of the comparison or sweep that it belongs to."""
    root: str = ""
    """Prefix of every path of the server."""
    shown: str = ""
    """Its path as it is written in commands."""

    @property
    def url(self) -> str:
        """Address of its page, without the host."""
        return f"{self.root}/{self.kind}s/{quote(self.id, safe='~')}"


class UnknownPlaceError(UsageError):
    """A name that is not in the index, with the most similar one."""

    remedy = "Open the page of all runs, or correct the name."

    def __init__(self, kind: PlaceKind, name: str, nearest: str | None, command: str) -> None:
        did_you_mean = f"; did you mean {nearest}?" if nearest else ""
        super().__init__(f"there is no {kind} {shortened(name)} in the watched folders{did_you_mean}")
        self.nearest, self.command = nearest, command


def check_folder(folder: Path) -> None:
    """Check that a folder can be watched.

    Raises:
        UsageError: if it does not exist, or cannot be read.
    """
    if not folder.is_dir():
        reason = "it is a file" if folder.exists() else "it does not exist"
        siblings = _names(folder.parent)
        near = difflib.get_close_matches(folder.name, siblings, n=1)
        hint = f"; did you mean {folder.parent / near[0]}?" if near else ""
        raise UsageError(f"{folder} cannot be watched: {reason}{hint}")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UsageError(f"{folder} cannot be watched: {error.strerror or error}") from error


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


class PlaceIndex:
    """Places by kind and identity. It may be used from several threads."""

    def __init__(
        self,
        folders: Sequence[Path],
        root: str = "",
        clock: Callable[[], float] = time.monotonic,
        storages: Mapping[Path, str] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            root: prefix of every path of the server.
            clock: seconds, by which the index is renewed.
            storages: further folders, which mirror storages, with the storages as they are written in commands.
        """
        self._folders, self._storages, self._root = tuple(folders), storages, root
        self._clock, self._lock = clock, threading.Lock()
        self._scanned: float | None = None
        self._places: Mapping[tuple[str, str], IndexedPlace] = {}
        self._problems: tuple[str, ...] = ()
        self._strays: dict[Path, tuple[Hashable, str | None]] = {}
        """Links that lead out of the folder, by place, with the times of the folders that were searched."""

    @property
    def shown_folders(self) -> tuple[str, ...]:
        """Watched folders and storages, as they are written in commands."""
        return (*map(shown_path, self._folders), *self._storages.values())

    def places(self) -> tuple[IndexedPlace, ...]:
        """All places, renewed at most every ``SCAN_SECONDS``."""
        return tuple(self._renewed(SCAN_SECONDS).values())

    @property
    def problems(self) -> tuple[str, ...]:
        """Folders that cannot be read, and links that are not followed."""
        return self._problems

    def find(self, kind: PlaceKind, name: str) -> IndexedPlace:
        """The place with this identity.

        Raises:
            UnknownPlaceError: if there is none.
        """
        place = self._places.get((kind, name)) or self._renewed(SEARCH_SECONDS).get((kind, name))
        if place is not None:
            return place
        names = [known for own, known in self._places if own == kind]
        near = difflib.get_close_matches(name, names, n=1)
        listed = " ".join(map(shown_path, self._folders))
        command = f"ls -d {listed}" if listed else f"esper sanctum {next(iter(self._storages.values()), '')}"
        raise UnknownPlaceError(kind, name, near[0] if near else None, command.rstrip())

    def _renewed(self, after_s: float) -> Mapping[tuple[str, str], IndexedPlace]:
        with self._lock:
            now = self._clock()
            if self._scanned is None or now - self._scanned >= after_s:
                scan = _Scan(self._root, self._strays, self._storages)
                for folder in (*self._folders, *self._storages):
                    scan.add_folder(folder)
                self._places, self._problems = scan.places, tuple(scan.problems[:MOST_PROBLEMS])
                self._scanned = now
            return self._places


class _Scan:
    """One look at the folders."""

    def __init__(
        self, prefix: str, strays: dict[Path, tuple[Hashable, str | None]], storages: Mapping[Path, str]
    ) -> None:
        self._storages = storages
        self.places: dict[tuple[str, str], IndexedPlace] = {}
        self.problems: list[str] = []
        self._prefix, self._strays, self._root = prefix, strays, Path()
        self._shown: dict[Path, str] = {}
        """Paths of the folders of places as they are written in commands."""

    def add_folder(self, folder: Path) -> None:
        """Add a watched folder: a place itself, or a folder of places."""
        self._root = Path(os.path.realpath(folder))
        if self._add(folder, ""):
            return
        for path in self._folders(folder):
            if not self._add(path, "") and path.name in GROUPS:
                for inner in self._folders(path):
                    self._add(inner, "")

    def _add(self, path: Path, parent: str) -> bool:
        """Add the place at ``path``, with what belongs to it; whether there is one."""
        kind = _kind_of(path)
        if kind is None:
            return False
        stray = self._stray(path)
        if stray is not None:
            self.problems.append(f"{shown_path(path)} is not shown: {stray} is a link that leads out of the folder")
            return True
        place = self._register(kind, path, parent)
        if kind == "sweep":
            for trial in self._folders(path / "trials"):
                self._add(trial, place.id)
        elif kind == "comparison":
            for side in self._folders(path):
                self._add(side, place.id)
        return True

    def _register(self, kind: PlaceKind, path: Path, parent: str) -> IndexedPlace:
        name = f"{parent}~{path.name}" if parent else path.absolute().name
        identity, number = name, 1
        while (kind, identity) in self.places:
            number += 1
            identity = f"{name}~{number}"
        place = IndexedPlace(kind, identity, path, parent, self._prefix, self._shown_place(path))
        self.places[kind, identity] = place
        return place

    def _shown_place(self, path: Path) -> str:
        """A place as it is written in commands."""
        if path.parent in self._storages:
            return place_within(self._storages[path.parent], path.name)
        if path.parent not in self._shown:
            self._shown[path.parent] = shown_path(path.parent)
        return os.path.normpath(f"{self._shown[path.parent]}/{path.absolute().name}")

    def _folders(self, folder: Path) -> Iterator[Path]:
        """Folders in ``folder`` by name, without hidden ones and stray links."""
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry for entry in entries if entry.name[:1] != "."), key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            self.problems.append(f"{shown_path(folder)} cannot be read: {error.strerror or error}")
            return
        if len(found) > MOST_RUNS:
            self.problems.append(
                f"of the {len(found):,} entries of {shown_path(folder)} the first {MOST_RUNS} are shown"
            )
        for entry in found[:MOST_RUNS]:
            if entry.is_symlink() and not self._is_within(entry.path):
                self.problems.append(f"{shown_path(Path(entry.path))} is a link that leads out of the folder")
            elif entry.is_dir():
                yield Path(entry.path)

    def _stray(self, path: Path) -> str | None:
        """A link in a place that leads out of the watched folder. Folders that have not changed are not searched."""
        folders = [str(path), *(f"{path}{name}" for name in (*LOGS, "/flight"))]
        changed = tuple(map(_changed, folders))
        known = self._strays.get(path)
        if known is None or known[0] != changed:
            known = self._strays[path] = (changed, next(self._stray_links(folders), None))
        return known[1]

    def _stray_links(self, folders: Sequence[str]) -> Iterator[str]:
        """Links in ``folders`` and in parts of logs that lead out of the watched folder."""
        for folder in folders:
            try:
                with os.scandir(folder) as found:
                    entries = list(found)
            except OSError:
                continue
            links = [entry for entry in entries if entry.is_symlink()]
            yield from (link.name for link in links if not self._is_within(link.path))
            if folder.endswith(LOGS):
                yield from self._stray_links([entry.path for entry in entries if entry.is_dir(follow_symlinks=False)])

    def _is_within(self, path: str) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._root)


def _changed(folder: str) -> Hashable:
    """What differs when an entry of a folder is added, renamed or replaced."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_dev


def _kind_of(path: Path) -> PlaceKind | None:
    kinds: dict[str, PlaceKind] = {MANIFEST: "run", SWEEP: "sweep", EVALUATION: "evaluation"}
    for name, kind in kinds.items():
        if os.path.isfile(f"{path}/{name}"):
            return kind
    return "comparison" if _is_comparison(path) else None


def _is_comparison(path: Path) -> bool:
    """Whether the two runs in ``path`` belong together: a folder of two single runs is none."""
    sides = sides_of(path)
    if not sides or (path / VERDICT).is_file():
        return bool(sides)
    try:
        names = {json.loads(read_regular(side / MANIFEST)).get("run") for side in sides}
    except (OSError, ValueError, AttributeError):
        return False
    return names == {path.absolute().name}
