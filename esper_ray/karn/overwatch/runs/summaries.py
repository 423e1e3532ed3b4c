"""One line about each place: status, rounds, growth, gain over the control.

The gain needs the log, of which only the ends of the newest episodes and the controls are read, in a thread of its
own. Until it is known the line says that it is being read.
"""

import contextlib
import csv
import json
import logging
import math
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_ray.karn.overwatch.runs.index import IndexedPlace
from esper_ray.karn.places import MANIFEST, RunLine, run_line
from esper_ray.karn.questions.comparisons import UNGROUPED
from esper_ray.leyline.config.run import flatten
from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.files.regular import open_regular, read_regular
from esper_ray.nissa.log.parquet import EventLogError, parts_in
from esper_ray.nissa.runs.position import ROUNDS_FILE
from esper_ray.nissa.state.answers import Gain, gain
from esper_ray.nissa.state.fold import RECENT_OUTCOMES
from esper_ray.nissa.state.run_state import RunState

logger = logging.getLogger(__name__)

TAIL_BYTES = 2**16
"""Bytes at the end of a table of rounds that are read for its last line."""
MOST_SETTINGS = 60
"""Most keys that differ between the runs and are listed."""
_MALFORMED = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class RoundLine:
    """The newest finished round."""

    done: int
    """Number of finished rounds."""
    growth_ratio: float | None


@dataclass(frozen=True, slots=True)
class ManifestLine:
    """What a list of runs needs of a manifest."""

    line: RunLine
    settings: Mapping[str, Any]
    """Configuration by dotted key."""
    items: frozenset[tuple[str, str]]
    """The same as texts, for a fast comparison of many."""


@dataclass(frozen=True, slots=True)
class ComparedFacts:
    """What a comparison needs of a run beside its rounds."""

    status: str
    group: str
    settings: Mapping[str, Any]
    gain: Gain | None
    control_ratio: float | None


class Summaries:
    """Lines about places, kept until their files change. It may be used from several threads."""

    def __init__(self, live_gain: Callable[[IndexedPlace], Gain | None] = lambda place: None) -> None:
        """
        Args:
            live_gain: gain of a run that is followed anyway; ``None`` if it is not.
        """
        self._live_gain = live_gain
        self._lock, self._wake, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._manifests: dict[Path, tuple[Hashable, ManifestLine]] = {}
        self._rounds: dict[Path, tuple[Hashable, RoundLine]] = {}
        self._gains: dict[Path, tuple[Hashable, Gain | None]] = {}
        self._wanted: dict[Path, Hashable] = {}
        self._listed: tuple[list[ManifestLine], list[str]] = [], []
        self._thread = threading.Thread(target=self._work, name="overwatch-gains", daemon=True)

    def start(self) -> None:
        """Start the thread that reads gains."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after the run that it reads."""
        self._ended.set()
        self._wake.set()

    def lines(self, places: Sequence[IndexedPlace]) -> list[dict[str, Any]]:
        """A line for each place, the one that started last first."""
        manifests = {place.path: self._manifest(place.path) for place in places if place.kind == "run"}
        keys = self._keys([manifest for manifest in manifests.values() if manifest is not None])
        lines = [self._line(place, manifests.get(place.path), keys) for place in places]
        self._wake.set()
        return sorted(lines, key=lambda line: (line["started"] or "", line["id"]), reverse=True)

    def _keys(self, manifests: list[ManifestLine]) -> list[str]:
        """Settings that differ, computed anew when a manifest has changed."""
        with self._lock:
            before, keys = self._listed
        if len(before) != len(manifests) or any(one is not other for one, other in zip(before, manifests, strict=True)):
            keys = _listed_keys(manifests)
            with self._lock:
                self._listed = manifests, keys
        return keys

    def compared(self, place: IndexedPlace) -> ComparedFacts:
        """Facts of a run for a comparison, read at once.

        Raises:
            UsageError: if its manifest cannot be read.
        """
        manifest = self._manifest(place.path)
        if manifest is None:
            raise UsageError(f"{place.shown} cannot be compared: its manifest cannot be read")
        state = logged_ends(place.path)
        line = manifest.line
        return ComparedFacts(line.status, line.group, manifest.settings, gain(state), state.control_accuracy_ratio)

    def _line(self, place: IndexedPlace, manifest: ManifestLine | None, keys: Sequence[str]) -> dict[str, Any]:
        tree: dict[str, Any] = {
            "kind": place.kind, "id": place.id, "name": place.path.name, "folder": os.path.dirname(place.path),
            "path": place.shown, "parent": place.parent or None, "url": place.url, "status": None, "started": None,
            "task": None, "preset": None, "seed": None, "group": None, "round": None, "rounds": None, "gain": None,
            "growth_ratio": None, "reading": False, "settings": {},
        }  # fmt: skip
        if place.kind != "run":
            return tree | {"started": _started(place.path)}
        if manifest is None:
            return tree | {"status": "unknown"}
        line, rounds, found = manifest.line, self._round(place.path), self._gain(place)
        tree |= {name: getattr(line, name) or None for name in ("status", "started", "task", "preset", "seed", "group")}
        reading = isinstance(found, str)
        return tree | {
            "round": rounds.done,
            "rounds": manifest.settings.get("ppo.rounds"),
            "growth_ratio": rounds.growth_ratio,
            "gain": {name: getattr(found, name) for name in Gain.__slots__} if isinstance(found, Gain) else None,
            "reading": reading,
            "settings": {key: manifest.settings.get(key) for key in keys},
        }

    def _manifest(self, path: Path) -> ManifestLine | None:
        try:
            signature = _signature(f"{path}/{MANIFEST}")
            known = self._manifests.get(path)
            if known is not None and known[0] == signature:
                return known[1]
            tree = json.loads(read_regular(path / MANIFEST))
            config = tree.get("config")
            settings = flatten(config) if isinstance(config, dict) else {}
            items = frozenset((key, repr(value)) for key, value in settings.items())
            line = ManifestLine(run_line(path.name, tree), settings, items)
        except _MALFORMED:
            return None
        self._manifests[path] = (signature, line)
        return line

    def _round(self, path: Path) -> RoundLine:
        file = path / ROUNDS_FILE
        try:
            signature = _signature(str(file))
            known = self._rounds.get(path)
            if known is not None and known[0] == signature:
                return known[1]
            line = _last_round(file)
        except _MALFORMED:
            return RoundLine(0, None)
        self._rounds[path] = (signature, line)
        return line

    def _gain(self, place: IndexedPlace) -> Gain | str | None:
        """The gain, or ``"reading"`` while it is not known."""
        live = self._live_gain(place)
        if live is not None:
            return live
        signature = _log_signature(place.path)
        with self._lock:
            known = self._gains.get(place.path)
            if known is not None and known[0] == signature:
                return known[1]
            self._wanted[place.path] = signature
        return "reading" if known is None else known[1]

    def _work(self) -> None:
        while not self._ended.is_set():
            self._wake.wait()
            self._wake.clear()
            self.read_gains()

    def read_gains(self) -> None:
        """Read the gains that lines have wanted."""
        while not self._ended.is_set():
            with self._lock:
                if not self._wanted:
                    return
                path, signature = next(iter(self._wanted.items()))
            try:
                found = gain(logged_ends(path))
            except Exception:
                logger.exception("the log of %s cannot be read", path)
                found = None
            with self._lock:
                self._gains[path] = (signature, found)
                if self._wanted.get(path) == signature:
                    del self._wanted[path]


def _listed_keys(manifests: Sequence[ManifestLine]) -> list[str]:
    """Keys in which the configurations differ, in their order."""
    if len(manifests) < 2:
        return []
    items = [manifest.items for manifest in manifests]
    differing = {key for key, _ in frozenset.union(*items) - frozenset.intersection(*items)}
    order = dict.fromkeys(key for manifest in manifests for key in manifest.settings if key in differing)
    return [key for key in order if key not in UNGROUPED][:MOST_SETTINGS]


def logged_ends(path: Path) -> RunState:
    """State of a run as far as its controls and newest outcomes determine it."""
    state = RunState()
    for record in _gain_records(path):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            state = state.apply(record)
    return state


def _gain_records(path: Path) -> Iterator[Mapping[str, Any]]:
    """Controls, and the ends of the newest episodes, in order."""
    lines = list(_tail_records(path / "events.jsonl"))
    outcomes = [record for record in lines if record.get("kind") == "outcome"]
    controls = [record for record in lines if record.get("kind") == "control"]
    known = {record.get("seq") for record in (*outcomes, *controls)}
    try:
        parts = parts_in(path / "events")
    except EventLogError:
        parts = []
    for part in reversed(parts):
        kinds = ("outcome", "control") if len(outcomes) < RECENT_OUTCOMES else ("control",)
        try:
            found = [record for record in part.records(kinds) if record["seq"] not in known]
        except EventLogError:
            continue
        controls = [record for record in found if record["kind"] == "control"] + controls
        outcomes = [record for record in found if record["kind"] == "outcome"] + outcomes
    yield from controls
    yield from outcomes


def _tail_records(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_regular(file) as lines:
            for line in lines:
                if b'"outcome"' in line or b'"control"' in line:
                    with contextlib.suppress(ValueError):
                        record = json.loads(line)
                        if isinstance(record, dict):
                            yield record
    except OSError:
        return


def _last_round(file: Path) -> RoundLine:
    with open_regular(file) as opened:
        header = opened.readline()
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(len(header), size - TAIL_BYTES))
        lines = opened.read().decode().splitlines()
    if not lines:
        return RoundLine(0, None)
    names, cells = (next(csv.reader([text])) for text in (header.decode(), lines[-1]))
    row = dict(zip(names, cells, strict=False))
    growth = float(row["growth_ratio"])
    return RoundLine(int(row["round"]) + 1, growth if math.isfinite(growth) else None)


def _started(path: Path) -> str | None:
    """Time at which a sweep or the first run of a comparison started, if recorded."""
    for file in (path / "sweep.json", *sorted(path.glob(f"*/{MANIFEST}"))[:2]):
        with contextlib.suppress(*_MALFORMED):
            started = json.loads(read_regular(file)).get("started")
            if isinstance(started, str):
                return started
    return None


def _signature(file: str) -> Hashable:
    status = os.stat(file)
    return status.st_mtime_ns, status.st_size, status.st_ino


def _log_signature(path: Path) -> Hashable:
    signatures = []
    for name in ("events.jsonl", "events"):
        try:
            signatures.append(_signature(f"{path}/{name}"))
        except OSError:
            signatures.append(None)
    return tuple(signatures)
