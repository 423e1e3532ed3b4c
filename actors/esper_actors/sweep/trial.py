"""One trial of a sweep: made, taken up again or branched off another one, and run round by round. No Ray in here.

A trial lives in a run directory whose name follows from the sweep. Whoever runs it looks there for its
newest checkpoint, so that nothing depends on what a driver remembered: after any crash, of the trial, of
the driver or of a node, at most the round that was being played is played again, with the same seeds.
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
    load_checkpoint,
    round_of,
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
"""How long a trial waits for the process that ran it before to be gone."""
COMMAND = ("esper", "sweep")
OnRound = Callable[[RunDirectory], None]


@dataclass(frozen=True, slots=True)
class Origin:
    """A state of a trial: where it is kept, and after how many rounds."""

    run: str
    """Name of the run directory below ``trials/``."""
    round_index: int


class TrialRun:
    """A trial that is being run in this process."""

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
            origin: the state to resume from; None, or a state of its own: the newest.
            snapshots: where unfinished episodes are saved.
            watched: whether the metrics of the trial are scraped, so that samples are worth taking.
            exporters: export the metrics of the trial, besides that of the workers.
        """
        self.sweep, self.trial, self.config, self.origin = sweep, trial, config, origin
        self.snapshots, self.watched, self.exporters = snapshots, watched, exporters

    def run(self, workers: WorkerGroup, on_round: OnRound, should_stop: ShouldStop = lambda: False) -> bool:
        """Run until all rounds are done (true) or a stop is requested (false).

        Args:
            workers: a worker group that is not open yet.
            on_round: called after each round when it has been saved, and once for a trial with no rounds left.

        Raises:
            CheckpointError: if the trial has checkpoints, but none that can be used.
            TimeoutError: if another process has been running this trial for too long.
        """
        with _alone(self.sweep.trials_path / f".{self.trial}.lock"):
            run, checkpoint = self._take_up()
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

    def _take_up(self) -> tuple[RunDirectory, Checkpoint | None]:
        """The run directory to go on in, and from where; no checkpoint: a fresh one."""
        newest = self.sweep.run(self.trial)
        if self.origin is not None and not self._follows(newest):
            newest = self._branch(self.origin)
        if newest is not None and not checkpoints_in(newest.checkpoints):
            shutil.rmtree(newest.path)  # it ended before its first checkpoint: there is nothing to go on from
            newest = self.sweep.run(self.trial)
        if newest is None:
            name = self.trial
            shutil.rmtree(self.sweep.trials_path / name, ignore_errors=True)  # what has no manifest yet
            return RunDirectory.create(self.sweep.trials_path, self.config, COMMAND, name, self._names()), None
        changes = difference(newest.config(), self.config)
        if changes:
            raise CheckpointError(f"{newest.path} was run with another configuration:\n" + "\n".join(changes))
        return newest, newest_valid(newest, self.config)

    def _names(self) -> Names:
        return Names(self.sweep.path.name, self.trial)

    def _follows(self, newest: RunDirectory | None) -> bool:
        """Whether going on in ``newest`` is to go on from the origin: it is that run, or branched off there."""
        if newest is None or self.origin is None:
            return False
        lineage = newest.read_manifest().get("lineage") or {}
        branched = (lineage.get("run"), lineage.get("round")) == (self.origin.run, self.origin.round_index)
        return newest.path.name == self.origin.run or (branched and not difference(newest.config(), self.config))

    def _branch(self, origin: Origin) -> RunDirectory:
        """A new run directory of this trial with the whole history of another one, up to ``origin``.

        The run that it comes from may go on meanwhile and drop the checkpoint; a later one will do as well.
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
    """Calls a function after every round."""

    def __init__(self, on_round: OnRound) -> None:
        self._on_round = on_round

    def run_opened(self, context: RunContext) -> None:
        self._run = context.run

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        self._on_round(self._run)


def newest_valid(run: RunDirectory, config: RunConfig) -> Checkpoint:
    """The newest checkpoint that can be read; a damaged one is passed over for the one before.

    Raises:
        CheckpointError: that of the newest, if none can be read.
    """
    first: CheckpointError | None = None
    for path in reversed(checkpoints_in(run.checkpoints)):
        try:
            return load_checkpoint(path, config)
        except CheckpointError as error:
            first = first or error
    raise first or CheckpointError(f"{run.path} holds no complete checkpoint")


def _at_or_after(run: RunDirectory, round_index: int) -> Checkpoint:
    """The checkpoint after ``round_index`` rounds, or the oldest later one that is still there.

    Raises:
        CheckpointError: if there is none; the newest earlier one is not taken, since the scheduler did not mean it.
    """
    config, tried = run.config(), set[Path]()
    while True:
        found = [path for path in checkpoints_in(run.checkpoints) if path not in tried]
        later = [path for path in found if round_of(path) >= round_index]
        if not later:
            raise CheckpointError(f"{run.path} holds no complete checkpoint after round {round_index}")
        try:
            return load_checkpoint(later[0], config)
        except CheckpointError:  # dropped while it was read, or damaged
            tried.add(later[0])


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock ``path``. The system lets go of it when a process ends, however that happens.

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
