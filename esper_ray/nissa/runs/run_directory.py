"""Run directory ``runs/<run_id>/``: manifest, configuration, event log, rounds, timings, checkpoints, picture.

Files that are equal in equal runs (``rounds.csv``, the events apart from their run id) are separate from those that
are not (``timings.csv``, the manifest). A checkpoint holds the lengths of the files; a resumed run continues there.
"""

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from esper_ray.leyline.config.loading import ConfigError, build, read_file
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault, UserError
from esper_ray.leyline.observation import schema_hash
from esper_ray.nissa.log.events import INTEGRITY, EventLog, integrity
from esper_ray.nissa.log.samples import SampleLog

GROWING = ("rounds.csv", "timings.csv")
"""Files that a run appends to; a checkpoint holds their lengths."""
MADE = ("manifest.json", "config.yaml", "faults.jsonl", "samples.jsonl")
"""Further files of a run before its first checkpoint."""
MEASURED_PACKAGES = ("esper-ray", "ray", "torch", "numpy", "gymnasium", "pydantic")


class RunDirectoryError(UserError):
    """A run directory that cannot be created, read or resumed."""

    remedy = "Give the path of a run directory: the folder that holds `manifest.json`."


class Names(NamedTuple):
    """Names of a run in events and metrics."""

    run: str
    """Name of a run, a comparison or a sweep."""
    group: str = ""
    """Group within it: a side of the comparison, a trial of the sweep."""


class RunDirectory:
    """Files of one run."""

    def __init__(self, path: Path, names: Names | None = None) -> None:
        """
        Args:
            names: names in the records of the run; by default the name of the directory without a group.
        """
        self.path = path
        self.names = names or Names(path.name)
        self.checkpoints = path / "checkpoints"
        self.snapshots = path / "snapshots"
        self.picture = path / "summary.png"
        self._files = {name: path / name for name in GROWING}
        self.event_log = EventLog(path, *self.names)
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
            run_id: its name; by default made of time, configuration and seed.
            names: names in the records of the run.

        Raises:
            RunDirectoryError: if it cannot be written.
        """
        started = datetime.now(UTC)
        name = run_id or f"{started:%Y%m%d-%H%M%S}-{config.name}-s{config.seed}"
        try:
            path = _make_unique(parent, name)
            run = cls(path, names)
            run.checkpoints.mkdir()
            for file in (*run._files.values(), run.event_log.tail):
                file.touch()
            (path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
            run.write_manifest(manifest(path.name, config, started, command) | run.names._asdict())
        except OSError as error:
            raise RunDirectoryError(f"cannot write a run directory in {parent}: {error.strerror or error}") from error
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """An existing directory, to read or resume.

        Raises:
            RunDirectoryError: if it is not a run directory.
        """
        missing = [name for name in ("manifest.json", "config.yaml", "checkpoints") if not (path / name).exists()]
        if missing:
            raise RunDirectoryError(f"{path} is not a run directory: it has no {', '.join(missing)}")
        run = cls(path)
        tree = run.read_manifest()
        return cls(path, Names(tree.get("run", path.name), tree.get("group", "")))

    @property
    def run_id(self) -> str:
        """The name of the directory."""
        return self.path.name

    def config(self) -> RunConfig:
        """Configuration of the run.

        Raises:
            RunDirectoryError: if it cannot be read.
        """
        try:
            return build(read_file(self.path / "config.yaml"))
        except ConfigError as error:
            raise RunDirectoryError(f"configuration of {self.path} cannot be used: {error}") from error

    def read_manifest(self) -> dict[str, Any]:
        """Present content of the manifest.

        Raises:
            RunDirectoryError: if it cannot be read.
        """
        try:
            tree: dict[str, Any] = json.loads((self.path / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"manifest of {self.path} cannot be read: {error}") from error
        return tree

    def write_manifest(self, tree: Mapping[str, Any]) -> None:
        """Replace the manifest, atomically."""
        temporary = self.path / "manifest.json.tmp"
        temporary.write_text(json.dumps(tree, indent=2) + "\n")
        os.replace(temporary, self.path / "manifest.json")

    def is_untouched(self) -> bool:
        """Whether nothing has been written since the directory was created: no event, round or checkpoint."""
        grown = any(file.exists() and file.stat().st_size for file in (*self._files.values(), self.event_log.tail))
        return not grown and not self.event_log.parts() and not any(self.checkpoints.iterdir())

    def is_disposable(self) -> bool:
        """Whether the directory holds no round, no checkpoint and no foreign file."""
        own_names = {*GROWING, *MADE, self.event_log.tail.name, self.checkpoints.name, self.snapshots.name}
        foreign = {path.name for path in self.path.iterdir()} - own_names
        complete = any(not path.name.startswith(".") for path in self.checkpoints.iterdir())
        return not (foreign or complete or self._files["rounds.csv"].stat().st_size)

    def set_status(self, status: str, **more: Any) -> None:
        """Note in the manifest how the run stands."""
        updated = datetime.now(UTC).isoformat(timespec="seconds")
        self.write_manifest(self.read_manifest() | {"status": status, "updated": updated} | more)

    def log(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records to the event log, see :meth:`EventLog.append`."""
        self.event_log.append(records)

    def close(self) -> None:
        """Finish the directory: compact all events, and write ``integrity.json``."""
        self.compact(always=True)
        summary = integrity(self.event_log) | self.samples.summary()
        (self.path / INTEGRITY).write_text(json.dumps(summary, indent=2) + "\n")

    def compact(self, *, always: bool = False) -> None:
        """Compact events and samples after a round, if they are many or ``always``."""
        self.event_log.compact(always=always)
        self.samples.compact(always=always)

    def add_round(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append one line each to ``rounds.csv`` and ``timings.csv``. The latter has the time in seconds since 1970."""
        for name, values in (("rounds.csv", row), ("timings.csv", {**timing, "ended": round(time.time(), 3)})):
            with self._files[name].open("a", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(values))
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(values)

    def add_fault(self, record: Mapping[str, Any]) -> None:
        """Append to ``faults.jsonl``, the faults of processes and cluster, which do not affect results."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **record}
        with (self.path / "faults.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def faults(self) -> list[Fault]:
        """The lines of ``faults.jsonl``, in order."""
        path = self.path / "faults.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        names = [member.name for member in fields(Fault)]
        return [Fault(**{name: value for name, value in json.loads(line).items() if name in names}) for line in lines]

    def position(self) -> dict[str, int]:
        """Lengths of the growing files in bytes, and numbers of events. Events are counted in total and by source."""
        return {name: file.stat().st_size for name, file in self._files.items()} | self.event_log.counts.position()

    def rewind(self, position: Mapping[str, int]) -> None:
        """Cut the growing files and the event log back to ``position``.

        Raises:
            RunDirectoryError: if one is shorter than that.
            EventLogError: if the event log is.
        """
        for name, file in self._files.items():
            size = file.stat().st_size if file.exists() else 0
            if size < position[name]:
                raise RunDirectoryError(f"{file} has {size} bytes, but the checkpoint was made at {position[name]}")
            os.truncate(file, position[name])
        self.event_log.rewind(position)

    def copy_history(self, other: "RunDirectory", position: Mapping[str, int]) -> None:
        """Copy the history of another run, which may be running, up to ``position``.

        Raises:
            RunDirectoryError: if that run is shorter.
            EventLogError: if its log is.
        """
        for name in (
            *GROWING,
            other.event_log.tail.name,
        ):  # lines before the parts that they may be compacted to meanwhile
            shutil.copyfile(other.path / name, self.path / name)
        for part in other.event_log.parts():
            shutil.copytree(part.path, self.path / part.path.relative_to(other.path), dirs_exist_ok=True)
        self.rewind(position)

    def rounds(self) -> list[dict[str, str]]:
        """The lines of ``rounds.csv``."""
        return self._lines("rounds.csv")

    def timings(self) -> list[dict[str, str]]:
        """The lines of ``timings.csv``."""
        return self._lines("timings.csv")

    def _lines(self, name: str) -> list[dict[str, str]]:
        with self._files[name].open(newline="") as file:
            return list(csv.DictReader(file))

    def events(self, *, evidence: bool = False) -> Iterator[dict[str, Any]]:
        """The events, in order, see :meth:`EventLog.records`."""
        return self.event_log.records(evidence=evidence)


def as_numbers(row: Mapping[str, str]) -> dict[str, Any]:
    """A line of ``rounds.csv`` with its numbers: integers and floats; an empty cell is ``None``."""
    return {name: _number(text) for name, text in row.items()}


def _number(text: str) -> int | float | None:
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)


def manifest(run_id: str, config: RunConfig, started: datetime, command: Sequence[str]) -> dict[str, Any]:
    """Manifest of a run: configuration, versions, code, seeds, hardware."""
    return {
        "run_id": run_id,
        "status": "running",
        "started": started.isoformat(timespec="seconds"),
        "command": list(command),
        "config": config.model_dump(mode="json"),
        "config_sha256": config.digest(),
        "observation_schema": schema_hash(),
        "versions": {"python": platform.python_version()} | {name: package_version(name) for name in MEASURED_PACKAGES},
        "git": _git(),
        "seeds": {"run": config.seed, "episode": "derived from (run seed, round, environment)"},
        "hardware": _hardware(),
    }


def _make_unique(parent: Path, run_id: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1000):
        path = parent / (run_id if attempt == 0 else f"{run_id}-{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise OSError(f"1000 runs named {run_id} exist")


def package_version(package: str) -> str | None:
    """Version of an installed distribution, ``None`` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
        return answer.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _hardware() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus: list[str] = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpus": gpus,
    }
