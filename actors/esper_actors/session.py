"""The training session of a run, from its configuration to its last checkpoint.

The command line, trials of sweeps, comparisons, benchmarks and people call :func:`train`. Dataflow::

    run directory (new, or an existing one that is resumed) -> worker group -> controller -> rounds
    observers receive every event; the run directory is complete when train returns or raises
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from esper_actors.evaluation.export import export_policy
from esper_actors.factory import make_workers
from esper_actors.rollout.snapshots import SnapshotPolicy
from esper_actors.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoints_in,
    finished_rounds,
    load_checkpoint,
)
from esper_actors.training.controller import Controller
from esper_actors.training.listeners import MetricsObserver, ObserverGroup
from esper_actors.training.round_summary import Progress
from esper_actors.training.run_lookup import newest_stored_round
from esper_actors.training.stop_request import StopRequest
from esper_actors.training.workers import WorkerGroup
from esper_policies.bundle import PolicyBundle, load_bundle
from esper_ray.leyline.config.loading import build, difference
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault, UsageError
from esper_ray.nissa.runs.observer import RunContext, RunObserver
from esper_ray.nissa.runs.remote_copy import RemoteCopy, pull
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.storage import Storage, StorageError, checked_storage, place_within
from esper_ray.tolaria.run_checks import check_devices, check_run

OnError = Literal["leave", "mark", "remove"]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of :func:`train`."""

    run: RunDirectory
    status: str
    """``finished`` or ``interrupted``."""
    progress: Progress
    """Counts of the run: rounds, steps, the best episode and round."""

    @property
    def best(self) -> dict[str, Any]:
        """The round with the highest mean validation accuracy, and the checkpoint of the policy that played it.

        Empty if the run was interrupted in its first round.
        """
        return dict(self.progress.best_round)

    @property
    def policy(self) -> PolicyBundle:
        """The policy of the newest checkpoint, for :func:`esper_ray.grow` or an evaluation."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "policy.esper"
            export_policy(self.run.path, path)
            return load_bundle(path)


def train(
    config: RunConfig,
    *,
    rounds: int | None = None,
    run: RunDirectory | str | Path | None = None,
    workers: WorkerGroup | None = None,
    observers: Sequence[RunObserver] = (),
    storage: str | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Train a policy by PPO, in a new run directory or in one that is resumed.

    May be called from a notebook and from any thread, but one run at a time in a process: runs in several threads share
    torch's global generator, and would not be repeatable. In the main thread the first Ctrl-C ends the run after the
    present step, saved and resumable; elsewhere no signal handler is installed.

    Args:
        rounds: overrides ``ppo.rounds``.
        run: a run directory, or its path. An existing run is resumed from its newest checkpoint; a path that does not
            exist becomes a new run. Without it a new run with a generated name is made in ``runs``.
        workers: a worker group that is not open yet; the one of ``system.workers`` if left out.
        observers: called with what happens, besides the run directory's own.
        storage: folder or URI for a copy of the run; a resumed run keeps the one that it has. If ``run`` does not exist
            here and has a copy there, the copy is fetched and resumed.
        should_stop: checked between steps; replaces the handling of Ctrl-C.

    Raises:
        TypeError: if ``config`` is no configuration.
        UsageError: if ``run`` was started with another configuration, is behind its copy in ``storage``, or asks for a
            device or a batch that does not exist.
        StorageError: if ``storage`` cannot be read or written.
        CheckpointError: if ``run`` exists and holds no checkpoint, or the newest cannot be used.
        WorkerGroupError: if no environment or no learner is left.
        UserError: see the errors of the task, the configuration and the cluster.
    """
    if not isinstance(config, RunConfig):
        raise TypeError(f"train takes a RunConfig, for example load_preset('digits'), got {config!r}")
    if rounds is not None:
        config = build(config.model_dump(mode="json"), {"ppo.rounds": rounds})
    check_devices(config, on_cluster=workers is not None or _on_cluster(config))
    check_run(config)
    storage = None if storage is None else checked_storage(storage)
    directory, checkpoint = _opened(run, config, storage)
    if checkpoint is not None and directory.read_manifest()["status"] == "finished":
        return Result(directory, "finished", Progress(**checkpoint.progress))
    own = StopRequest() if should_stop is None else None
    stop = should_stop or own or StopRequest()
    recorded = any(isinstance(observer, MetricsObserver) for observer in observers)
    observers_of_run = [*([] if recorded else [MetricsObserver()]), *observers]
    with own or nullcontext():
        session = TrainingSession(
            config,
            directory,
            checkpoint,
            observers=observers_of_run,
            storage=storage,
            on_error="remove" if checkpoint is None else "mark",
        )
        return session.run(stop, workers)


def checkpoint_to_resume(run: RunDirectory, config: RunConfig) -> Checkpoint:
    """The newest checkpoint of a run that was started with ``config``.

    Raises:
        UsageError: if the run has another configuration, with the differences.
        CheckpointError: if there is no complete checkpoint, or the newest cannot be used.
    """
    differences = difference(run.config(), config)
    if differences:
        raise UsageError(f"{run.path} was started with another configuration:\n" + "\n".join(differences))
    paths = checkpoints_in(run.checkpoints)
    if not paths:
        raise CheckpointError(f"{run.path} holds no complete checkpoint")
    return load_checkpoint(paths[-1], config)


def _opened(
    run: RunDirectory | str | Path | None, config: RunConfig, storage: str | None
) -> tuple[RunDirectory, Checkpoint | None]:
    """The run to resume with its newest checkpoint, or a new one without."""
    path = run.path if isinstance(run, RunDirectory) else None if run is None else Path(run)
    if path is not None and storage is not None:
        fetched = _fetched(path, storage)
        if fetched is not None:
            return fetched, checkpoint_to_resume(fetched, config)
    if path is not None and path.exists():
        directory = run if isinstance(run, RunDirectory) else RunDirectory.open(path)
        if directory.is_untouched() and not difference(directory.config(), config):
            return directory, None
        return directory, checkpoint_to_resume(directory, config)
    parent = Path("runs") if path is None else path.parent
    return RunDirectory.create(parent, config, sys.argv, None if path is None else path.name), None


def _fetched(path: Path, storage: str) -> RunDirectory | None:
    """The run from its copy in ``storage``, if the copy is newer than ``path``; a push would remove what is newer.

    Raises:
        UsageError: if ``path`` exists and is behind its copy.
    """
    stored = newest_stored_round(Storage(storage).within(path.name))
    local = max((finished_rounds(checkpoint) for checkpoint in checkpoints_in(path / "checkpoints")), default=-1)
    if stored <= local:
        return None
    if path.exists():
        raise UsageError(
            f"{path} has {max(local, 0)} finished rounds, its copy in {storage} has {stored}: move the directory away "
            "to resume from the copy, or give the run another name"
        )
    return pull(Storage(storage), path.name, path.parent)


def _on_cluster(config: RunConfig) -> bool:
    """Whether the run joins a cluster that other processes started; it may have devices that this machine lacks."""
    ray = sys.modules.get("ray")
    return config.system.workers == "ray" and (
        "RAY_ADDRESS" in os.environ or (ray is not None and ray.is_initialized())
    )


class TrainingSession:
    """One run in this process: opens the workers, runs the rounds, and leaves the run directory complete."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        checkpoint: Checkpoint | None,
        *,
        observers: Sequence[RunObserver] = (),
        storage: str | None = None,
        snapshots: SnapshotPolicy | None = None,
        samples: bool = True,
        on_error: OnError = "leave",
    ) -> None:
        """
        Args:
            checkpoint: checkpoint to resume from; ``None``: start the run.
            storage: folder or URI of a copy of the run, updated after every round.
            snapshots: where unfinished episodes are saved; in the run directory or its copy if left out.
            samples: whether steps of unfinished episodes are sampled.
            on_error: ``remove``: remove the directory if it holds no round, no checkpoint and no foreign file, else
                mark the run as failed; ``mark``: mark it as failed; ``leave``: leave it unchanged.
        """
        self.config, self.run_directory, self.checkpoint = config, run, checkpoint
        self._observers = ObserverGroup(observers)
        self._samples, self._on_error = samples, on_error
        manifest = run.read_manifest()
        storage = storage or manifest.get("storage")
        if storage is not None and storage != manifest.get("storage"):
            run.write_manifest(manifest | {"storage": storage})
        self._copy = None if storage is None else RemoteCopy(Storage(storage), run)
        self._own_snapshots = snapshots is None
        place = str(run.snapshots.absolute()) if self._copy is None else place_within(self._copy.place, "snapshots")
        self._status: str | None = None
        self.snapshots = snapshots or SnapshotPolicy(place, config.system.snapshot_every)

    @property
    def rounds_done(self) -> int:
        """Number of rounds that were finished before."""
        return 0 if self.checkpoint is None else self.checkpoint.round_index

    def run(self, should_stop: Callable[[], bool], workers: WorkerGroup | None = None) -> Result:
        """Run until all rounds are done or a stop is requested.

        Args:
            workers: a worker group that is not open yet.

        Raises:
            WorkerGroupError: if no environment or no learner is left.
            Exception: what an observer raises while the run starts, and errors of the program.
        """
        try:
            group = workers or self._make_workers()
            controller = Controller(
                self.config, group, self.run_directory, self._observers, should_stop, self._copy, samples=self._samples
            )
            status = self._run(controller, group, should_stop)
        except BaseException:
            self._observers.run_ended(self._status or "failed")
            if self._status is None:
                self._abandon()
            raise
        return Result(self.run_directory, status, controller.progress)

    def _run(self, controller: Controller, group: WorkerGroup, should_stop: Callable[[], bool]) -> str:
        resumed = self.checkpoint is not None
        context = RunContext(
            self.config, self.run_directory, self.rounds_done, resumed, group.plan(), controller.report_fault
        )
        self._observers.run_opened(context)
        with group:
            _listen_again(should_stop)
            if self.checkpoint is None:
                controller.start()
            else:
                controller.resume(self.checkpoint)
            self._observers.run_started(replace(context, workers=group.describe(), exporter=group.exporter))
            self.run_directory.set_status("running")
            status = "finished" if controller.run() else "interrupted"
            if status == "finished":
                self._finish(controller)
            else:
                self.run_directory.set_status(status)
            self._status = status  # from here on an error does not change how the run ended
            self._push(controller)
            self._observers.run_ended(status)
        return status

    def _make_workers(self) -> WorkerGroup:
        names = None if self.config.telemetry.level == "off" else self.run_directory.names
        return make_workers(self.config, snapshots=self.snapshots, label=self.run_directory.run_id, metrics=names)

    def _finish(self, controller: Controller) -> None:
        run, digest = self.run_directory, controller.weights_digest()
        run.log([{"kind": "run_finished", "policy_sha256": digest}])
        run.close()
        run.set_status("finished", policy_sha256=digest)
        if self._own_snapshots:
            shutil.rmtree(run.snapshots, ignore_errors=True)

    def _push(self, controller: Controller) -> None:
        """Update the copy. A failure is reported as a fault."""
        if self._copy is not None:
            try:
                self._copy.push()
            except StorageError as error:
                controller.report_fault(Fault("storage_failed", self._copy.place, f"the copy is not complete: {error}"))

    def _abandon(self) -> None:
        if self._on_error == "remove" and self.run_directory.is_disposable():
            shutil.rmtree(self.run_directory.path, ignore_errors=True)
        elif self._on_error != "leave":
            self.run_directory.set_status("failed")


def _listen_again(should_stop: Callable[[], bool]) -> None:
    """Install signal handlers again, since Ray installs its own when it starts."""
    if isinstance(should_stop, StopRequest):
        should_stop.listen()
