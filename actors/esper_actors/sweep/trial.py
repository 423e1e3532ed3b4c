"""A trial of a sweep: started, resumed or branched, and run by rounds.

The state of a trial is its run directory, whose name follows from the sweep. Every process resumes from the newest
checkpoint there. After a crash of trial, driver or node, at most the unfinished round is repeated, with the same seeds.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_actors.session import train
from esper_actors.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoints_in,
    finished_rounds,
    load_checkpoint,
    save_checkpoint,
)
from esper_actors.training.listeners import MetricsObserver
from esper_actors.training.run_preparation import prepare_run
from esper_actors.training.workers import ShouldStop, WorkerGroup
from esper_ray.leyline.config.loading import difference
from esper_ray.leyline.config.run import RunConfig
from esper_ray.nissa.metrics.exporter import Exporter
from esper_ray.nissa.runs.observer import RunContext, RunObserver
from esper_ray.nissa.runs.run_directory import Names, RunDirectory
from esper_ray.nissa.runs.run_lock import RunLock
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

LOCK_SECONDS = 120.0
"""Seconds to wait for an earlier process of the same trial to end."""
METRIC, TIME = "objective_pp", "round"
"""Names under which a trial reports its score and its number of finished rounds to Ray Tune."""
COMMAND = ("esper", "sweep")
OnRound = Callable[[RunDirectory], None]


@dataclass(frozen=True, slots=True)
class Origin:
    """A state of a trial: its run directory and its number of finished rounds."""

    run: str
    """Name of the run directory below ``trials/``."""
    round_index: int


class TrialRun:
    """A trial in this process."""

    def __init__(
        self,
        sweep: SweepDirectory,
        trial: str,
        config: RunConfig,
        origin: Origin | None = None,
        *,
        watched: bool = False,
        exporters: Sequence[Exporter] = (),
    ) -> None:
        """
        Args:
            config: that of the trial, unless a population scheduler has changed it.
            origin: the state to branch from; ``None`` or a state of this trial: resume from the newest.
            watched: whether the metrics of the trial are scraped, which also turns samples on.
            exporters: exporters of the trial's metrics, besides that of the workers.
        """
        self.sweep, self.trial, self.config, self.origin = sweep, trial, config, origin
        self.watched, self.exporters = watched, exporters

    def run(self, workers: WorkerGroup, on_round: OnRound, should_stop: ShouldStop = lambda: False) -> bool:
        """Run until all rounds are done (true) or a stop is requested (false).

        Args:
            workers: a worker group that is not open yet.
            on_round: called after each round when it has been saved, and once for a trial with no rounds left.

        Raises:
            CheckpointError: if the trial has checkpoints, but no usable one.
            RunLockedError: if another process has been running this trial for too long.
        """
        path = self.sweep.trials_path / self.trial
        with RunLock(path, path.with_name(f".{self.trial}.lock"), LOCK_SECONDS):
            prepared = prepare_run(self.config, self._directory(), is_trial=True)
            if prepared.rounds_done >= self.config.ppo.rounds:
                on_round(prepared.open())
            metrics = MetricsObserver(state="trial", exporters=self.exporters, samples=self.watched)
            observers = [metrics, _RoundObserver(on_round)]
            result = train(self.config, run=prepared, workers=workers, observers=observers, should_stop=should_stop)
            return result.status == "finished"

    def _directory(self) -> RunDirectory:
        """The run directory of the trial; a branched or new one if there is none."""
        newest = self.sweep.run(self.trial)
        if self.origin is not None and not self._follows(newest):
            return self._branch(self.origin)
        if newest is None:
            return RunDirectory.create(self.sweep.trials_path, self.config, COMMAND, self.trial, self._names())
        return newest

    def _names(self) -> Names:
        return Names(self.sweep.path.name, self.trial)

    def _follows(self, newest: RunDirectory | None) -> bool:
        """Whether ``newest`` is the run of the origin, or was branched from it."""
        if newest is None or self.origin is None:
            return False
        lineage = newest.read_manifest().get("lineage") or {}
        branched = (lineage.get("run"), lineage.get("round")) == (self.origin.run, self.origin.round_index)
        return newest.path.name == self.origin.run or (branched and not difference(newest.config(), self.config))

    def _branch(self, origin: Origin) -> RunDirectory:
        """New run directory with the history of another trial up to ``origin``.

        The source may run meanwhile and remove the checkpoint; a later one is used instead.
        """
        source = RunDirectory.open(self.sweep.trials_path / origin.run)
        checkpoint = _at_or_after(source, origin.round_index)
        name = f"{self.trial}.g{self.sweep.generation(self.trial) + 1:02d}"
        temporary = f".{name}.tmp"
        shutil.rmtree(self.sweep.trials_path / temporary, ignore_errors=True)  # of a process that was killed here
        run = RunDirectory.create(self.sweep.trials_path, self.config, COMMAND, temporary, self._names())
        run.copy_history(source, checkpoint.position)
        save_checkpoint(run.checkpoints, checkpoint, self.config)
        lineage = {"run": origin.run, "round": origin.round_index, "taken_after_round": checkpoint.round_index}
        lineage |= {"changes": difference(source.config(), self.config)}
        run.write_manifest(run.read_manifest() | {"run_id": name, "lineage": lineage})
        os.replace(run.path, self.sweep.trials_path / name)
        return RunDirectory.open(self.sweep.trials_path / name)


class _RoundObserver(RunObserver):
    """An observer that calls a function after every round."""

    def __init__(self, on_round: OnRound) -> None:
        self._on_round = on_round

    def run_opened(self, context: RunContext) -> None:
        self._run = context.run

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        self._on_round(self._run)


def _at_or_after(run: RunDirectory, round_index: int) -> Checkpoint:
    """The checkpoint after ``round_index`` rounds, or the oldest later one.

    Raises:
        CheckpointError: if there is none; an earlier one is never used, since the scheduler chose this state.
    """
    config, tried = run.config(), set[Path]()
    while True:
        paths = [path for path in checkpoints_in(run.checkpoints) if path not in tried]
        later = [path for path in paths if finished_rounds(path) >= round_index]
        if not later:
            raise CheckpointError(f"{run.path} holds no complete checkpoint after round {round_index}")
        try:
            return load_checkpoint(later[0], config)
        except CheckpointError:  # dropped while it was read, or damaged
            tried.add(later[0])
