"""A trial of a sweep: started, resumed or branched, and run by rounds.

The state of a trial is its run directory, whose name follows from the sweep. Every process resumes from the newest
checkpoint there. After a crash of trial, driver or node, at most the unfinished round is repeated, with the same seeds.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

from esper_actors.rollout.snapshots import SnapshotPolicy
from esper_actors.session import TrainingSession
from esper_actors.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoints_in,
    finished_rounds,
    load_checkpoint,
    save_checkpoint,
)
from esper_actors.training.listeners import MetricsObserver
from esper_actors.training.workers import ShouldStop, WorkerGroup
from esper_ray.leyline.config.loading import difference
from esper_ray.leyline.config.run import RunConfig
from esper_ray.nissa.metrics.exporter import Exporter
from esper_ray.nissa.runs.observer import RunContext, RunObserver
from esper_ray.nissa.runs.run_directory import Names, RunDirectory
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
        snapshots: SnapshotPolicy | None = None,
        watched: bool = False,
        exporters: Sequence[Exporter] = (),
    ) -> None:
        """
        Args:
            config: that of the trial, unless a population scheduler has changed it.
            origin: the state to branch from; ``None`` or a state of this trial: resume from the newest.
            snapshots: where unfinished episodes are saved.
            watched: whether the metrics of the trial are scraped, which also turns samples on.
            exporters: exporters of the trial's metrics, besides that of the workers.
        """
        self.sweep, self.trial, self.config, self.origin = sweep, trial, config, origin
        self.snapshots, self.watched, self.exporters = snapshots, watched, exporters

    def run(self, workers: WorkerGroup, on_round: OnRound, should_stop: ShouldStop = lambda: False) -> bool:
        """Run until all rounds are done (true) or a stop is requested (false).

        Args:
            workers: a worker group that is not open yet.
            on_round: called after each round when it has been saved, and once for a trial with no rounds left.

        Raises:
            CheckpointError: if the trial has checkpoints, but no usable one.
            TimeoutError: if another process has been running this trial for too long.
        """
        with _locked(self.sweep.trials_path / f".{self.trial}.lock"):
            run, checkpoint = self._open_run()
            session = TrainingSession(
                self.config,
                run,
                checkpoint,
                observers=[MetricsObserver(state="trial", exporters=self.exporters), _RoundObserver(on_round)],
                snapshots=self.snapshots,
                samples=self.watched,
            )
            if session.rounds_done >= self.config.ppo.rounds:
                on_round(run)
            return session.run(should_stop, workers).status == "finished"

    def _open_run(self) -> tuple[RunDirectory, Checkpoint | None]:
        """The run directory of the trial, and the checkpoint to resume from; ``None``: a new run."""
        newest = self.sweep.run(self.trial)
        if self.origin is not None and not self._follows(newest):
            newest = self._branch(self.origin)
        if newest is not None and not checkpoints_in(newest.checkpoints):
            shutil.rmtree(newest.path)  # it ended before its first checkpoint
            newest = self.sweep.run(self.trial)
        if newest is None:
            name = self.trial
            shutil.rmtree(self.sweep.trials_path / name, ignore_errors=True)  # a folder without a manifest
            return RunDirectory.create(self.sweep.trials_path, self.config, COMMAND, name, self._names()), None
        changes = difference(newest.config(), self.config)
        if changes:
            raise CheckpointError(f"{newest.path} was run with another configuration:\n" + "\n".join(changes))
        return newest, newest_valid(newest, self.config)

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
        """A new run directory of this trial with the history of another one, up to ``origin``.

        The source may run meanwhile and remove the checkpoint; a later one is used instead.
        """
        source = RunDirectory.open(self.sweep.trials_path / origin.run)
        checkpoint = _at_or_after(source, origin.round_index)
        name = f"{self.trial}.g{self.sweep.generation(self.trial) + 1:02d}"
        temporary = f".{name}.tmp"
        for left_over in (name, temporary):
            shutil.rmtree(self.sweep.trials_path / left_over, ignore_errors=True)
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


def newest_valid(run: RunDirectory, config: RunConfig) -> Checkpoint:
    """The newest readable checkpoint of a run; damaged ones are skipped.

    Raises:
        CheckpointError: if none is readable; the error of the newest.
    """
    first: CheckpointError | None = None
    for path in reversed(checkpoints_in(run.checkpoints)):
        try:
            return load_checkpoint(path, config)
        except CheckpointError as error:
            first = first or error
    raise first or CheckpointError(f"{run.path} holds no complete checkpoint")


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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file lock ``path``. The system releases it when the process ends.

    Raises:
        TimeoutError: if another process still holds it after ``LOCK_SECONDS``.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    with path.open("w") as file:
        while True:
            try:
                flock(file, LOCK_EX | LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {path} for {LOCK_SECONDS:.0f} s") from None
                time.sleep(0.2)
        yield
