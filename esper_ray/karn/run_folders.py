"""Folders of runs for a viewer: on this machine, or in a storage."""

import json
import math
import shutil
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol

from esper_ray.karn.console_log import console_lines
from esper_ray.karn.following import EventCollector, RunFollower
from esper_ray.karn.places import (
    MANIFEST,
    MOST_RUNS,
    FolderKind,
    RunLine,
    folder_kind,
    lines_in,
    run_line,
    shown_path,
    with_differences,
)
from esper_ray.leyline.errors import UsageError, UserError
from esper_ray.nissa.metrics.publisher import head_choices
from esper_ray.nissa.runs.copies.copy_mirror import CopyMirror
from esper_ray.nissa.runs.copies.storage import Storage, check_place, split_place
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.state.answers import Sight
from esper_ray.nissa.state.run_state import RunState

COPY_SECONDS = 5.0
"""Seconds between two looks at a copy."""
NOTE = "a copy by round: pulse, samples and steps in play are not in it"


class ShownRun(Protocol):
    """A run that is followed, wherever it is."""

    name: str
    place: str
    """Its place, as it is written in commands on the machine of the run."""
    note: str
    """What a viewer must know about it; empty without."""
    refresh_s: float
    """Seconds between two calls of :meth:`refresh`."""
    choices: Mapping[str, int]
    """Greatest number of legal choices, by head; empty if the configuration cannot be read."""
    state: RunState
    sight: Sight
    manifest: Mapping[str, Any]
    problems: list[str]
    notes: list[str]
    live_is_full: bool

    def refresh(self) -> None:
        """Fetch what is new of a run elsewhere.

        Raises:
            UserError: if it cannot be fetched at present.
        """

    def poll(self) -> bool:
        """Read what is new; whether anything changed.

        Raises:
            UserError: if the run cannot be shown.
        """

    def console(self, most: int) -> tuple[str, ...]:
        """The newest lines of its ``console.log``; none if there is no such file."""


class RunFolder(Protocol):
    """A folder of runs."""

    kind: FolderKind
    shown: str
    """Its place, as it is written in commands."""

    def lines(self) -> tuple[RunLine, ...]:
        """Its runs and groups of runs.

        Raises:
            UserError: if it cannot be read.
        """

    def open(self, name: str, clock: Callable[[], float], collector: EventCollector) -> ShownRun:
        """The run of this name, to be followed.

        Args:
            clock: seconds of the viewer.
            collector: receives every record that is read.

        Raises:
            UserError: if there is none, or it cannot be read.
        """

    def within(self, name: str) -> "RunFolder | None":
        """The folder of this name; ``None`` if it is a run."""


class FolderRun(RunFollower):
    """A run in a folder of this machine: the run itself, or the mirror of a copy."""

    def __init__(
        self,
        run: RunDirectory,
        place: str,
        clock: Callable[[], float],
        collector: EventCollector,
        mirror: CopyMirror | None = None,
    ) -> None:
        """
        Args:
            place: as it is written in commands.
            mirror: fetches what is new of a copy.
        """
        super().__init__(run, clock, collector)
        self.name, self.place, self._mirror = run.path.name, place, mirror
        self.note, self.refresh_s = ("", math.inf) if mirror is None else (NOTE, COPY_SECONDS)
        self.choices: Mapping[str, int] = {}
        with suppress(UserError):  # the configuration of another version: entropies are shown in nats
            self.choices = head_choices(run.config())

    def refresh(self) -> None:
        """Fetch new rounds of a copy."""
        if self._mirror is not None:
            self._mirror.update()

    def console(self, most: int) -> tuple[str, ...]:
        """The newest lines of ``console.log``."""
        return console_lines(self.run.path, most)


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.kind, self.shown = folder_kind(path), shown_path(path)

    def lines(self) -> tuple[RunLine, ...]:
        """Its runs and groups of runs. What cannot be read is left out."""
        return lines_in(self._path)

    def open(self, name: str, clock: Callable[[], float], collector: EventCollector) -> ShownRun:
        """The run of this name."""
        run = RunDirectory.open(self._path / name)
        return FolderRun(run, shown_path(run.path), clock, collector)

    def within(self, name: str) -> RunFolder | None:
        """A comparison, sweep or evaluation; ``None`` if it is a run."""
        return None if (self._path / name / MANIFEST).is_file() else LocalFolder(self._path / name)


class StoredFolder:
    """A folder in a storage. Runs are mirrored without their checkpoints into a temporary folder."""

    kind: FolderKind = "storage"

    def __init__(self, place: str) -> None:
        """
        Args:
            place: a folder or URI, with its credentials.

        Raises:
            StorageError: if it is not a place.
        """
        check_place(place)
        self._storage = Storage(place)
        self.shown = self._storage.place
        self._temporary = Path(mkdtemp(prefix="esper-sanctum-"))
        weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
        self._manifests: dict[str, tuple[str, RunLine]] = {}

    def lines(self) -> tuple[RunLine, ...]:
        """The runs with a copy here, the one that started last first."""
        found = []
        for name in self._storage.names()[:MOST_RUNS]:
            stamp = self._storage.stamp(f"{name}/{MANIFEST}")
            if stamp is not None:
                found.append(self._line(name, stamp))
        return with_differences(sorted(found, key=lambda line: (line.started, line.name), reverse=True))

    def _line(self, name: str, stamp: str) -> RunLine:
        known = self._manifests.get(name)
        if known is None or known[0] != stamp:
            manifest = _parsed(self._storage.read(f"{name}/{MANIFEST}") or b"", f"{self.shown}/{name}/{MANIFEST}")
            known = self._manifests[name] = (stamp, run_line(name, dict(manifest)))
        return known[1]

    def is_run(self) -> bool:
        """Whether the place is a run itself."""
        return self._storage.stamp(MANIFEST) is not None

    def open(self, name: str, clock: Callable[[], float], collector: EventCollector) -> ShownRun:
        """The mirror of a run, fetched."""
        copy = self._storage.within(name)
        mirror = CopyMirror(copy, self._temporary / name)
        mirror.update()
        return FolderRun(RunDirectory.open(mirror.folder), copy.place, clock, collector, mirror)

    def within(self, name: str) -> RunFolder | None:
        """``None``: only runs are listed."""
        return None


def _parsed(content: bytes, name: str) -> Mapping[str, Any]:
    """A manifest; an empty one if it is damaged."""
    try:
        tree = json.loads(content)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def stored_place(place: str) -> tuple[StoredFolder, str | None]:
    """The folder in a storage, and the name of the run that is shown.

    Raises:
        StorageError: if the storage cannot be read.
        UsageError: if there is neither a run nor a folder with runs.
    """
    folder = StoredFolder(place)
    if folder.is_run():
        parent, name = split_place(place)
        return StoredFolder(parent), name
    if not folder.lines():
        raise UsageError(f"{folder.shown} holds no run: it has no {MANIFEST}, nor has a folder in it")
    return folder, None
