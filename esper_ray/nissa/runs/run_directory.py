"""Run directory ``runs/<run_id>/``: manifest, configuration, event log, rounds, timings, checkpoints, picture.

Files that are equal in equal runs (``rounds.csv``, the events apart from their run id) are separate from those that
are not (``timings.csv``, the manifest). A checkpoint holds sizes and digests of the files; a resumed run compares them.
"""

import csv
import errno
import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from esper_ray.leyline.config.documents import dump_yaml
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files.durable import GrowingFile, changing, copy_folder, rewrite_file, write_file
from esper_ray.leyline.files.paths import unused_paths
from esper_ray.leyline.names import CONSOLE_LOG
from esper_ray.nissa.log.events import EventLog, integrity
from esper_ray.nissa.log.numbering import InheritedNames
from esper_ray.nissa.log.reader import INTEGRITY, changed_files
from esper_ray.nissa.log.samples import SampleLog
from esper_ray.nissa.runs.flight_recorder import FLIGHT
from esper_ray.nissa.runs.live_steps import LIVE
from esper_ray.nissa.runs.origin import manifest
from esper_ray.nissa.runs.position import GROWING, ROUNDS_FILE, TIMINGS_FILE, Position, check_table
from esper_ray.nissa.runs.pulse import PULSE
from esper_ray.nissa.runs.run_config import CONFIG, read_config, with_extension, without_extension
from esper_ray.nissa.runs.run_files import RunDirectoryError, nearest_run, read_faults, read_manifest_file, read_rows
from esper_ray.nissa.runs.run_lock import LOCK

FAULTS = "faults.jsonl"
MADE = ("manifest.json", CONFIG, FAULTS, "samples.jsonl", LIVE, PULSE, FLIGHT, CONSOLE_LOG)
"""Further files and folders of a run before its first checkpoint."""


class Names(NamedTuple):
    """Names of a run in events and metrics."""

    run: str
    """Name of a run, a comparison or a sweep."""
    group: str = ""
    """Group within it: a side of the comparison, a trial of the sweep."""


class RunDirectory:
    """Files of one run."""

    def __init__(self, path: Path, names: Names | None = None, inherited: Sequence[InheritedNames] = ()) -> None:
        """
        Args:
            names: names in the records of the run; by default the name of the directory without a group.
            inherited: names in its first events, if they were copied from other runs.
        """
        self.path = path
        self.names = names or Names(path.name)
        self.checkpoints = path / "checkpoints"
        self.snapshots = path / "snapshots"
        self.picture = path / "summary.png"
        self._files = {name: path / name for name in GROWING}
        self._growing = {name: GrowingFile(path / name) for name in (*GROWING, FAULTS)}
        self.event_log = EventLog(path, *self.names, inherited)
        self.samples = SampleLog(path, *self.names)

    @classmethod
    def create(
        cls,
        parent: Path,
        config: RunConfig,
        command: Sequence[str],
        run_id: str | None = None,
        names: Names | None = None,
    ) -> "RunDirectory":
        """A new directory under ``parent`` with manifest and configuration.

        Args:
            run_id: its name; by default made of time, configuration and seed, and a number if that exists.
            names: names in the records of the run.

        Raises:
            RunDirectoryError: if it cannot be written, or ``run_id`` exists.
        """
        started = datetime.now(UTC)
        name = run_id or f"{started:%Y%m%d-%H%M%S}-{config.name}-s{config.seed}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for path in [parent / run_id] if run_id is not None else unused_paths(parent, name):
                tree = manifest(path.name, config, started, command) | (names or Names(path.name))._asdict()
                if _make_directory(path, config, tree):
                    return cls(path, names)
        except OSError as error:
            raise RunDirectoryError(f"cannot write a run directory in {parent}: {error.strerror or error}") from error
        raise RunDirectoryError(f"{parent / name} exists: give the run another name")

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """An existing directory, to read or resume.

        Raises:
            RunDirectoryError: if it is not a run directory.
        """
        missing = [name for name in ("manifest.json", CONFIG, "checkpoints") if not (path / name).exists()]
        if missing:
            near = None if path.exists() else nearest_run(path)
            hint = f"; did you mean {near}?" if near else ""
            raise RunDirectoryError(f"{path} is not a run directory: it has no {', '.join(missing)}{hint}")
        if not (path / "checkpoints").is_dir():
            raise RunDirectoryError(f"{path} is not a run directory: checkpoints is not a folder")
        run = cls(path)
        tree = run.read_manifest()
        inherited = [InheritedNames.model_validate(names) for names in tree.get("inherited", ())]
        return cls(path, Names(tree.get("run", path.name), tree.get("group", "")), inherited)

    @property
    def run_id(self) -> str:
        """The name of the directory."""
        return self.path.name

    def config(self) -> RunConfig:
        """Configuration of the run.

        Raises:
            RunDirectoryError: if it cannot be read, or differs from that in the manifest.
        """
        return read_config(self.path, self.read_manifest())

    def read_manifest(self) -> dict[str, Any]:
        """Present content of the manifest.

        Raises:
            RunDirectoryError: if it cannot be read.
        """
        return read_manifest_file(self.path / "manifest.json")

    def write_manifest(self, tree: Mapping[str, Any]) -> None:
        """Replace the manifest, atomically.

        Raises:
            WriteError: if it cannot be written.
        """
        write_file(self.path / "manifest.json", json.dumps(tree, indent=2) + "\n")

    def extend(self, config: RunConfig, after_round: int, command: Sequence[str]) -> None:
        """Replace the configuration by one with more rounds, and note that in the manifest.

        Args:
            after_round: number of finished rounds.
            command: command line of the extension.
        """
        tree = with_extension(self.read_manifest(), self.config(), config, after_round, command)
        self.write_manifest(tree)
        write_file(self.path / CONFIG, _config_text(config))

    def withdraw_extension(self) -> None:
        """Remove an extension from the manifest that a crash interrupted before it changed the configuration.

        Raises:
            WriteError: if it cannot be written.
        """
        present = self.read_manifest()
        tree = without_extension(self.config(), present)
        if tree != present:
            self.write_manifest(tree)

    def progress(self) -> str | None:
        """First thing that would be lost if the run started again; ``None`` without one.

        The first event does not count, nor does a checkpoint that was not written completely.
        """
        for name, file in self._files.items():
            if file.exists() and file.stat().st_size:
                return f"{name} has {file.stat().st_size} bytes"
        for path in sorted(self.checkpoints.iterdir()):
            hidden = path.name.startswith(".")
            if not hidden or (path.name.endswith(".old") and path.is_dir() and any(path.iterdir())):
                return f"{self.checkpoints.name} holds {path.name}" + (", a replaced checkpoint" if hidden else "")
        for log, most in ((self.event_log, 1), (self.samples, 0)):
            if parts := log.parts():
                return f"{parts[0].path.parent.name} holds {parts[0].path.name}"
            if log.line_count() > most:
                return f"{log.tail.name} has {log.line_count()} lines"
        return None

    def is_unstarted(self) -> bool:
        """Whether nothing would be lost if the run started again."""
        return self.progress() is None

    def is_disposable(self) -> bool:
        """Whether the run is unstarted and its directory holds no foreign file."""
        own_names = {*GROWING, *MADE, LOCK, self.event_log.tail.name, self.checkpoints.name, self.snapshots.name}
        return self.is_unstarted() and not {path.name for path in self.path.iterdir()} - own_names

    def set_status(self, status: str, **more: Any) -> None:
        """Note in the manifest how the run stands. On a full disk the manifest is overwritten in place.

        Raises:
            RunDirectoryError: if the manifest cannot be read.
            WriteError: if it cannot be written.
        """
        updated = datetime.now(UTC).isoformat(timespec="seconds")
        tree = self.read_manifest() | {"status": status, "updated": updated} | more
        rewrite_file(self.path / "manifest.json", json.dumps(tree, indent=2) + "\n")

    def log(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records to the event log, see :meth:`EventLog.append`."""
        self.event_log.append(records)

    def close(self) -> None:
        """Finish the directory: compact all events, and write ``integrity.json``."""
        self.compact(always=True)
        summary = integrity(self.event_log) | self.samples.summary()
        summary["files"] |= {name: self._growing[name].prefix().model_dump() for name in GROWING}
        write_file(self.path / INTEGRITY, json.dumps(summary, indent=2) + "\n")

    def log_problem(self) -> str | None:
        """Gaps and damage in the event log of a finished run.

        ``None`` without any, and before the end.
        """
        path = self.path / INTEGRITY
        if not path.exists():
            return None
        summary = json.loads(path.read_text())
        if summary["complete"]:
            return None
        counts = f"{summary['gaps']} gaps, {summary['malformed']} malformed events"
        return "; ".join([f"the event log of {self.path} is not complete: {counts}", *summary["problems"]])

    def compact(self, *, always: bool = False) -> None:
        """Compact events and samples after a round, if they are many or ``always``."""
        self.event_log.compact(always=always)
        self.samples.compact(always=always)

    def add_round(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append one line each to ``rounds.csv`` and ``timings.csv``. The latter has the time in seconds since 1970.

        Raises:
            WriteError: if one cannot be written, or is not what was last written.
        """
        for name, values in (("rounds.csv", row), ("timings.csv", {**timing, "ended": round(time.time(), 3)})):
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(values))
            if self._growing[name].size() == 0:
                writer.writeheader()
            writer.writerow(values)
            self._growing[name].append(text.getvalue())

    def add_fault(self, record: Mapping[str, Any]) -> None:
        """Append to ``faults.jsonl``, the faults of processes and cluster, which do not affect results.

        Raises:
            WriteError: if it cannot be written, or is not what was last written.
        """
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **record}
        self._growing[FAULTS].append(json.dumps(line) + "\n")

    def faults(self) -> list[Fault]:
        """The lines of ``faults.jsonl``, in order.

        Raises:
            RunDirectoryError: if it cannot be read. A damaged line is left out with a warning.
        """
        path = self.path / FAULTS
        return read_faults(path) if path.exists() else []

    def position(self) -> Position:
        """Present position in the growing files.

        Raises:
            WriteError: if a table is not what was last written.
        """
        rounds, timings = self._growing[ROUNDS_FILE].prefix(), self._growing[TIMINGS_FILE].prefix()
        return Position(rounds=rounds, timings=timings, events=self.event_log.position())

    def flush(self) -> None:
        """Wait until everything before the present position is on the disk.

        Raises:
            WriteError: if a file is not what was last written, or the disk refuses it.
        """
        for name in GROWING:
            self._growing[name].flush()
        self.event_log.flush()

    def check(self, position: Position, rounds: int | None = None) -> None:
        """Check that the growing files and the event log are unchanged up to ``position``.

        It must be possible to add samples, too. Nothing is changed.

        Args:
            rounds: number of rounds that the tables must hold there; ``None``: any.

        Raises:
            RunDirectoryError: if a table is shorter than that, has other rounds or a damaged line, or was changed.
            EventLogError: if the event log is or was, or a part of the samples is damaged.
        """
        for name, prefix in position.tables.items():
            check_table(self._files[name], prefix, rounds)
        self.event_log.check(position.events)
        self.samples.check(position.events)

    def rewind(self, position: Position) -> None:
        """Cut the growing files and the event log back to ``position``.

        Raises:
            RunDirectoryError: see :meth:`check`. Then nothing is cut.
            EventLogError: see :meth:`check`. Then nothing is cut.
            WriteError: if one cannot be written.
        """
        self.check(position)
        for name in GROWING:
            self._growing[name].truncate(position.tables[name].size)
        self.event_log.rewind(position.events)

    def copy_history(self, other: "RunDirectory", position: Position) -> None:
        """Copy the history of another run, which may be running, up to ``position``. The manifest names that run.

        Raises:
            RunDirectoryError: if that run is shorter, or was changed.
            EventLogError: if its log is or was.
        """
        inherited = other.event_log.names.until(position.events.sequence)
        self.write_manifest(self.read_manifest() | {"inherited": [names.model_dump() for names in inherited]})
        self.event_log = EventLog(self.path, *self.names, inherited)
        for name in (*GROWING, other.event_log.tail.name):  # lines before parts, to which they may be compacted
            write_file(self.path / name, (other.path / name).read_bytes())
        for part in other.event_log.parts():
            copy = self.path / part.path.relative_to(other.path)
            with changing(copy):
                copy.parent.mkdir(exist_ok=True)
            copy_folder(part.path, copy)
        self.rewind(position)

    def rounds(self, *columns: str) -> list[dict[str, str]]:
        """The lines of ``rounds.csv``; see :func:`~esper_ray.nissa.runs.run_files.read_rows`.

        Args:
            columns: columns that it must have.
        """
        return self._rows(ROUNDS_FILE, columns)

    def timings(self, *columns: str) -> list[dict[str, str]]:
        """The lines of ``timings.csv``, like those of ``rounds.csv``."""
        return self._rows(TIMINGS_FILE, columns)

    def _rows(self, name: str, columns: Collection[str]) -> list[dict[str, str]]:
        """The lines of a table.

        Raises:
            RunDirectoryError: if it is damaged, or the run is finished and it has other lines than at the end.
        """
        rows = read_rows(self._files[name], columns)
        for change in changed_files(self.path, (name,)):
            raise RunDirectoryError(change)
        return rows

    def events(self, *, evidence: bool = False) -> Iterator[dict[str, Any]]:
        """The events, in order, see :meth:`EventLog.records`."""
        return self.event_log.records(evidence=evidence)


def _make_directory(path: Path, config: RunConfig, tree: Mapping[str, Any]) -> bool:
    """Make a run directory in one step; false if another process made ``path``."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    run = RunDirectory(temporary)
    try:
        with changing(temporary):
            run.checkpoints.mkdir(parents=True)
        for file in (*run._files.values(), run.event_log.tail):
            write_file(file, "")
        write_file(temporary / CONFIG, _config_text(config))
        run.write_manifest(tree)
        with changing(path):
            os.rename(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True


def _config_text(config: RunConfig) -> str:
    return dump_yaml(config.model_dump(mode="json"))
