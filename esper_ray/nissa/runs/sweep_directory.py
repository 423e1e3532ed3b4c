"""Sweep directory ``sweeps/<name>/``: definition (``sweep.json``), trials (run directories in ``trials/``), results.

A sweep can be resumed from this folder alone; nothing in it is pickled. A trial is the run directory
``trials/<trial>``; after a population scheduler has continued it from another trial, it is the newest of
``trials/<trial>.g01``, ``.g02``, ..., each of which holds the whole history that led to it.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from esper_ray.leyline.config.loading import ConfigError, build_complete, difference
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.sweep import SweepConfig, Trial, expand, sweep_config
from esper_ray.leyline.files.durable import write_file
from esper_ray.leyline.plugins.origins import check_origins, recorded_origins
from esper_ray.leyline.process.credentials import without_credentials
from esper_ray.leyline.results.sweep import TrialResult
from esper_ray.nissa.log.lines import read_object
from esper_ray.nissa.runs.origin import MEASURED_PACKAGES, package_version
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError, first_difference
from esper_ray.nissa.runs.run_lock import RunLock

SWEEP_SCHEMA = 1
MEANS = ("committed_accuracy_ratio", "val_accuracy_ratio", "growth_ratio", "fossilised_mean", "return_mean")
"""Further columns that are averaged over the last rounds of a trial."""
_GENERATION = re.compile(r"g[0-9]{2,6}")
MAY_CHANGE = ("concurrent", "retries", "preset", "settings")
"""Keys of a sweep without influence on its results, or that the base configuration holds."""


class _SweepFile(BaseModel):
    """The keys of ``sweep.json`` that are read; the others are for people."""

    model_config = ConfigDict(extra="allow")
    sweep: dict[str, Any]
    base: dict[str, Any]
    host_parameters: dict[StrictStr, Annotated[StrictInt, Field(ge=0, lt=2**63)]]


def _absent_keys(whole: Mapping[str, Any], tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Dotted names of the keys of ``whole`` that ``tree`` lacks."""
    for key, value in whole.items():
        if key not in tree:
            yield f"{prefix}{key}"
        elif isinstance(value, Mapping) and isinstance(tree[key], Mapping):
            yield from _absent_keys(value, tree[key], f"{prefix}{key}.")


def _made(folder: Path) -> bool:
    """Whether ``folder`` is new: of two processes at once, one makes it."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


class SweepDirectory:
    """Files of one sweep."""

    def __init__(self, path: Path, tree: Mapping[str, Any]) -> None:
        """
        Args:
            tree: content of ``sweep.json``.

        Raises:
            RunDirectoryError: if it does not describe a sweep that this version can resume.
        """
        self.path = path
        self.trials_path = path / "trials"
        self._tree = tree
        if problem := first_difference(_SweepFile, dict(tree)):
            raise RunDirectoryError(f"{path / 'sweep.json'} cannot be used: {problem}")
        try:
            self.sweep: SweepConfig = sweep_config(tree["sweep"], recorded=True)
            self.base: RunConfig = build_complete(tree["base"], recorded=True)
            self.trials: dict[str, Trial] = {
                trial.name: trial for trial in expand(self.sweep, self.base, recorded=True)
            }
            self.host_parameters: dict[str, int] = tree["host_parameters"]
            """Parameters of the host, by trial."""
            missing = self.trials.keys() ^ self.host_parameters.keys()
        except ConfigError as error:
            raise RunDirectoryError(f"{path / 'sweep.json'} cannot be used: {error}") from error
        for key in _absent_keys(self.sweep.model_dump(mode="json"), tree["sweep"], "sweep."):
            raise RunDirectoryError(f"{path / 'sweep.json'} cannot be used: {key} is missing")
        if missing:
            names = ", ".join(sorted(missing)[:5])
            raise RunDirectoryError(f"{path / 'sweep.json'} cannot be used: host_parameters: {names!r:.300} do not fit")

    @classmethod
    def create(
        cls,
        path: Path,
        sweep: SweepConfig,
        base: RunConfig,
        host_parameters: Mapping[str, int],
        command: Sequence[str],
    ) -> "SweepDirectory":
        """A new folder.

        Args:
            host_parameters: parameters of the host, by trial.

        Raises:
            RunDirectoryError: if it exists and is not empty, or cannot be written.
        """
        tree = {
            "schema": SWEEP_SCHEMA,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": [without_credentials(word) for word in command],
            "sweep": sweep.model_dump(mode="json"),
            "base": base.model_dump(mode="json"),
            "host_parameters": dict(host_parameters),
            "versions": {name: package_version(name) for name in MEASURED_PACKAGES},
            **recorded_origins(*(trial.config for trial in expand(sweep, base))),
        }
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()) or not _made(path / "trials"):
                raise RunDirectoryError(f"{path} is not empty; --resume {path} resumes the sweep in it")
            write_file(path / "sweep.json", json.dumps(tree, indent=2) + "\n")
        except OSError as error:
            raise RunDirectoryError(f"cannot write a sweep in {path}: {error.strerror or error}") from error
        return cls(path, tree)

    @classmethod
    def open(cls, path: Path) -> "SweepDirectory":
        """An existing sweep.

        Raises:
            RunDirectoryError: if ``path`` has none, or it cannot be read.
        """
        file = path / "sweep.json"
        if not file.exists():
            run = (path / "manifest.json").is_file()
            hint = f"; it is a run: esper train ppo --resume {path}" if run else ""
            raise RunDirectoryError(f"{path} is not a sweep directory: it has no sweep.json{hint}")
        try:
            tree = read_object(file)
        except ValueError as error:
            raise RunDirectoryError(f"{file} cannot be used: it {error}") from error
        schema = tree.get("schema")
        if type(schema) is not int or schema != SWEEP_SCHEMA:
            raise RunDirectoryError(f"{file} has schema {schema!r:.80}, this version reads {SWEEP_SCHEMA}")
        return cls(path, tree)

    def check_plugins(self) -> None:
        """Check that the packages of all parts of the trials are installed here.

        Raises:
            PluginError: naming the first part that is missing, and what to install.
        """
        check_origins(str(self.path), self._tree)

    def differences(self, sweep: SweepConfig, base: RunConfig) -> list[str]:
        """One line for each key in which this sweep differs from another."""
        here, there = (tree.model_dump(mode="json", exclude=set(MAY_CHANGE)) for tree in (self.sweep, sweep))
        lines = [f"{key}: {here[key]!r} -> {there[key]!r}" for key in here if here[key] != there[key]]
        return lines + difference(self.base, base)

    def runs(self, trial: str) -> list[Path]:
        """Run directories of a trial, oldest first."""
        generations = [
            path for path in self.trials_path.glob(f"{trial}.g*") if _GENERATION.fullmatch(path.name.rpartition(".")[2])
        ]
        return [path for path in (self.trials_path / trial, *sorted(generations)) if (path / "manifest.json").is_file()]

    def run(self, trial: str) -> RunDirectory | None:
        """Present run directory of a trial; ``None`` if it has not been started."""
        paths = self.runs(trial)
        return RunDirectory.open(paths[-1]) if paths else None

    def generation(self, trial: str) -> int:
        """Number of times that a trial has continued from another one."""
        paths = self.runs(trial)
        return int(paths[-1].name.rpartition(".g")[2]) if paths and paths[-1].name != trial else 0

    def check(self) -> None:
        """Check that every started trial has the configuration of this sweep.

        Raises:
            RunDirectoryError: with the differences.
        """
        for trial in self.trials.values():
            paths = self.runs(trial.name)
            lines = difference(RunDirectory.open(paths[0]).config(), trial.config) if paths else []
            if lines:
                raise RunDirectoryError(f"{paths[0]} belongs to another sweep:\n" + "\n".join(lines))

    def set_status(self, trial: str, status: str, **more: Any) -> None:
        """Write the status into the manifest of a trial, if it has been started."""
        run = self.run(trial)
        if run is not None:
            run.set_status(status, **more)

    def settings(self, trial: str) -> dict[str, Any]:
        """Settings of a trial that differ from the base, with their present values."""
        run, mine = self.run(trial), dict(self.trials[trial].settings)
        if run is None or self.generation(trial) == 0:
            return mine
        flat = run.config().flat()
        return {key: flat.get(key, value) for key, value in mine.items()}

    def objective(self, trial: str, rows: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
        """Objective of each of ``rows`` (of ``rounds.csv``, or events of kind ``round``) in percentage points.

        It is the validation accuracy with committed seeds only, minus the price of all parameters beyond the host's.
        Unlike returns it is comparable between reward modes. It differs from the objective of ``esper evaluate`` in
        one point: a seed that is not committed adds no accuracy, but its parameters are priced, so that a mode that
        rewards holding seeds does not score as well as one that rewards committing them. The price is that of the
        base configuration, even if the sweep varies the price within the reward.
        """
        reward = self.base.reward
        price_pp = 100.0 * reward.param_penalty_weight / reward.param_budget
        host = self.host_parameters[trial]
        return tuple(
            100.0 * _number(row["committed_accuracy_ratio"]) - price_pp * (_number(row["growth_ratio"]) - 1.0) * host
            for row in rows
        )

    def result(self, trial: str) -> TrialResult:
        """Result of a trial so far, from its files.

        Raises:
            RunDirectoryError: if its table of rounds is damaged.
        """
        run = self.run(trial)
        return self.result_of(trial, run, [] if run is None else run.rounds(*MEANS, "env_steps", "rollbacks"))

    def result_of(
        self, trial: str, run: RunDirectory | None, rows: Sequence[Mapping[str, str | float | None]]
    ) -> TrialResult:
        """Result of a trial after some rounds.

        Args:
            run: its present run directory; ``None`` if it has not been started.
            rows: lines of ``rounds.csv``, or events of kind ``round``.
        """
        status = "waiting" if run is None else str(run.read_manifest()["status"])
        curve = self.objective(trial, rows)
        last = rows[-self.sweep.window :]
        return TrialResult(
            trial=trial,
            settings=self.settings(trial),
            status=status,
            round_index=len(rows),
            rounds=self.trials[trial].config.ppo.rounds,
            score_pp=fmean(curve[-self.sweep.window :]) if curve else None,
            curve_pp=curve,
            means={name: fmean(_number(row[name]) for row in last) for name in MEANS} if last else {},
            rollbacks=sum(int(_number(row["rollbacks"])) for row in rows),
            env_steps=int(_number(rows[-1]["env_steps"])) if rows else 0,
            generation=self.generation(trial),
            run="" if run is None else str(run.path.relative_to(self.path)),
        )

    def results(self) -> list[TrialResult]:
        """Results of all trials, in their order."""
        return [self.result(name) for name in self.trials]

    def lock(self) -> RunLock:
        """Exclusive lock of this sweep, to be used in a ``with`` statement."""
        return RunLock(self.path)


def _number(value: str | float | None) -> float:
    """The number in a cell of ``rounds.csv`` or a field of an event.

    An event has null for one that is not finite.
    """
    return math.nan if value is None else float(value)
