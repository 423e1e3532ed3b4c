"""Sweep directory ``sweeps/<name>/``: definition (``sweep.json``), trials (run directories in ``trials/``), results.

A sweep can be resumed from this folder alone; nothing in it is pickled. A trial is the run directory
``trials/<trial>``; after a population scheduler has continued it from another trial, it is the newest of
``trials/<trial>.g01``, ``.g02``, ..., each of which holds the whole history that led to it.
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from statistics import fmean
from typing import Any

from esper_ray.leyline.config.loading import ConfigError, build, difference
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.sweep import SweepConfig, Trial, expand, sweep_config
from esper_ray.leyline.sweep_results import TrialResult
from esper_ray.nissa.runs.run_directory import MEASURED_PACKAGES, RunDirectory, RunDirectoryError, package_version

SWEEP_SCHEMA = 1
MEANS = ("committed_accuracy_ratio", "val_accuracy_ratio", "growth_ratio", "fossilised_mean", "return_mean")
"""Further columns that are averaged over the last rounds of a trial."""
MAY_CHANGE = ("concurrent", "retries", "preset", "settings")
"""Keys of a sweep without influence on its results, or that the base configuration holds."""


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
        try:
            self.sweep: SweepConfig = sweep_config(tree["sweep"])
            self.base: RunConfig = build(tree["base"])
            self.trials: dict[str, Trial] = {trial.name: trial for trial in expand(self.sweep, self.base)}
            self._host_parameters: dict[str, int] = tree["host_parameters"]
            missing = self.trials.keys() ^ self._host_parameters.keys()
        except (ConfigError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{path / 'sweep.json'} cannot be used: {error}") from error
        if missing:
            raise RunDirectoryError(f"{path / 'sweep.json'} cannot be used: {', '.join(sorted(missing))} do not fit")

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
            "command": list(command),
            "sweep": sweep.model_dump(mode="json"),
            "base": base.model_dump(mode="json"),
            "host_parameters": dict(host_parameters),
            "versions": {name: package_version(name) for name in MEASURED_PACKAGES},
        }
        try:
            if path.exists() and any(path.iterdir()):
                raise RunDirectoryError(f"{path} is not empty; --resume {path} resumes the sweep in it")
            (path / "trials").mkdir(parents=True, exist_ok=True)
            temporary = path / "sweep.json.tmp"
            temporary.write_text(json.dumps(tree, indent=2) + "\n")
            os.replace(temporary, path / "sweep.json")
        except OSError as error:
            raise RunDirectoryError(f"cannot write a sweep in {path}: {error.strerror or error}") from error
        return cls(path, tree)

    @classmethod
    def open(cls, path: Path) -> "SweepDirectory":
        """An existing sweep.

        Raises:
            RunDirectoryError: if ``path`` has none, or it cannot be read.
        """
        if not (path / "sweep.json").is_file():
            run = (path / "manifest.json").is_file()
            hint = f"; it is a run: esper train ppo --resume {path}" if run else ""
            raise RunDirectoryError(f"{path} is not a sweep directory: it has no sweep.json{hint}")
        try:
            tree = json.loads((path / "sweep.json").read_text())
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{path / 'sweep.json'} cannot be read: {error}") from error
        if not isinstance(tree, dict) or tree.get("schema") != SWEEP_SCHEMA:
            schema = tree.get("schema") if isinstance(tree, dict) else type(tree).__name__
            raise RunDirectoryError(f"{path / 'sweep.json'} has schema {schema!r}, this version reads {SWEEP_SCHEMA}")
        return cls(path, tree)

    def differences(self, sweep: SweepConfig, base: RunConfig) -> list[str]:
        """One line for each key in which this sweep differs from another."""
        here, there = (tree.model_dump(mode="json", exclude=set(MAY_CHANGE)) for tree in (self.sweep, sweep))
        lines = [f"{key}: {here[key]!r} -> {there[key]!r}" for key in here if here[key] != there[key]]
        return lines + difference(self.base, base)

    def runs(self, trial: str) -> list[Path]:
        """Run directories of a trial, oldest first."""
        paths = [self.trials_path / trial, *sorted(self.trials_path.glob(f"{trial}.g[0-9]*"))]
        return [path for path in paths if (path / "manifest.json").is_file()]

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
        """Objective of each of ``rows`` (lines of ``rounds.csv``) in percentage points.

        It is the validation accuracy with committed seeds only, minus the price of all parameters beyond the host's.
        Unlike returns it is comparable between reward modes. It differs from the objective of ``esper evaluate`` in
        one point: a seed that is not committed adds no accuracy, but its parameters are priced, so that a mode that
        rewards holding seeds does not score as well as one that rewards committing them. The price is that of the
        base configuration, even if the sweep varies the price within the reward.
        """
        reward = self.base.reward
        price_pp = 100.0 * reward.param_penalty_weight / reward.param_budget
        host = self._host_parameters[trial]
        return tuple(
            100.0 * float(row["committed_accuracy_ratio"]) - price_pp * (float(row["growth_ratio"]) - 1.0) * host
            for row in rows
        )

    def result(self, trial: str) -> TrialResult:
        """Result of a trial so far, from its files."""
        run, config = self.run(trial), self.trials[trial].config
        rows = [] if run is None else complete_rows(run)
        status = "waiting" if run is None else str(run.read_manifest()["status"])
        curve = self.objective(trial, rows)
        last = rows[-self.sweep.window :]
        return TrialResult(
            trial=trial,
            settings=self.settings(trial),
            status=status,
            round_index=len(rows),
            rounds=config.ppo.rounds,
            score_pp=fmean(curve[-self.sweep.window :]) if curve else None,
            curve_pp=curve,
            means={name: fmean(float(row[name]) for row in last) for name in MEANS} if last else {},
            rollbacks=sum(int(row["rollbacks"]) for row in rows),
            env_steps=int(rows[-1]["env_steps"]) if rows else 0,
            generation=self.generation(trial),
            run="" if run is None else str(run.path.relative_to(self.path)),
        )

    def results(self) -> list[TrialResult]:
        """Results of all trials, in their order."""
        return [self.result(name) for name in self.trials]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclusive lock of this sweep.

        Raises:
            RunDirectoryError: if another process holds it.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise RunDirectoryError(f"another process runs the sweep in {self.path}") from None
            yield


def complete_rows(run: RunDirectory) -> list[dict[str, str]]:
    """Complete lines of ``rounds.csv``; the last one may be incomplete while the run writes it."""
    try:
        rows = run.rounds()
    except (OSError, csv.Error):
        return []
    return [row for row in rows if None not in row and all(row.values())]
