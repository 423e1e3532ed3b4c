"""The training session of a run, from its configuration to its last checkpoint.

The command line, trials of sweeps, comparisons, benchmarks and people call :func:`train`. Dataflow::

    run directory (new, or an existing one that is resumed) -> worker group -> controller -> rounds
    observers receive every event; the run directory is complete when train returns or raises
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from esper_actors.cluster.ray_folder import ray_folder
from esper_actors.evaluation.export import export_policy
from esper_actors.factory import make_workers
from esper_actors.rollout.snapshots import SnapshotPolicy
from esper_actors.training.controller import Controller
from esper_actors.training.failures import failure_of, recovery_notes
from esper_actors.training.flight import FlightObserver
from esper_actors.training.listeners import MetricsObserver, ObserverGroup, ViewerFiles
from esper_actors.training.round_summary import Progress
from esper_actors.training.run_preparation import PreparedRun, prepare_run, run_place
from esper_actors.training.stop_request import StopRequest
from esper_actors.training.workers import WorkerGroup
from esper_policies.bundle import PolicyBundle, load_bundle
from esper_ray.leyline.config.loading import build, difference
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files.durable import WriteError
from esper_ray.leyline.process.credentials import without_credentials
from esper_ray.nissa.runs.copies.remote_copy import RemoteCopy
from esper_ray.nissa.runs.copies.storage import Storage, StorageError, checked_storage, place_within
from esper_ray.nissa.runs.observer import RunContext, RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError
from esper_ray.nissa.runs.run_lock import RunLockedError
from esper_ray.tolaria.assembly import host_record
from esper_ray.tolaria.run_checks import check_devices, check_run
from esper_ray.tolaria.tasks import load_task


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
        """The round with the highest mean validation accuracy, and the checkpoint of its policy.

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
    run: PreparedRun | RunDirectory | str | Path | None = None,
    workers: WorkerGroup | None = None,
    observers: Sequence[RunObserver] = (),
    storage: str | None = None,
    should_stop: Callable[[], bool] | None = None,
    checkpoint: str | None = None,
) -> Result:
    """Train a policy by PPO, in a new or a resumed run directory.

    May be called from a notebook and from any thread, but one run at a time in a process: runs in several threads share
    torch's global generator, and would not be repeatable. In the main thread the first Ctrl-C ends the run after the
    present step, saved and resumable; elsewhere no signal handler is installed.

    Args:
        rounds: overrides ``ppo.rounds``.
        run: a run directory, or its path. An existing run is resumed from its newest checkpoint; a path that does not
            exist becomes a new run. Without it a new run with a generated name is made in ``runs``. A prepared run has
            been checked before and is not checked again.
        workers: a worker group that is not open yet; the one of ``system.workers`` if left out.
        observers: called with what happens, besides the run directory's own.
        storage: folder or URI for a copy of the run; a resumed run keeps the one that it has. If ``run`` does not exist
            here and has a copy there, the copy is fetched and resumed. Credentials of a URI are not stored: a resumed
            run needs the URI again, or credentials in the environment or a profile.
        should_stop: checked between steps; replaces the handling of Ctrl-C.
        checkpoint: the checkpoint to resume from, such as ``round-00003``; default: the newest. Later rounds are cut.

    Raises:
        TypeError: if ``config`` is not a configuration, or ``workers`` or an observer is of another type.
        RunLockedError: if another process writes the run or its copy.
        UsageError: if ``run`` was started with another configuration, is behind its copy in the storage, or asks for a
            device or a batch that does not exist.
        StorageError: if the storage cannot be read or written.
        CheckpointError: if ``run`` has rounds or events but no checkpoint, or the checkpoint cannot be used.
        WorkerGroupError: if no environment or no learner is left.
        RayFolderError: if a local cluster has no folder for its files.
        WriteError: if a file of the run cannot be written, or was changed by another process.
        RunMemoryError: if there is no memory left.
        UserError: see the errors of the task, the configuration and the cluster.
    """
    _check_types(config, workers, observers)
    if rounds is not None:
        config = build(config.model_dump(mode="json"), {"ppo.rounds": rounds})
    prepared = _prepared(config, run, workers, storage, checkpoint)
    own = StopRequest() if should_stop is None else None
    stop = should_stop or own or StopRequest()
    recorded = any(isinstance(observer, MetricsObserver) for observer in observers)
    try:
        if prepared.is_finished and prepared.directory and prepared.checkpoint:
            return Result(prepared.directory, "finished", Progress(**prepared.checkpoint.progress))
        if workers is None and config.system.workers == "ray" and not _on_cluster(config):
            ray_folder()  # refused before anything is written
        with own or nullcontext():
            session = _Session(prepared, [*([] if recorded else [MetricsObserver()]), *observers])
            return session.run(stop, workers)
    finally:
        prepared.release()


def _prepared(
    config: RunConfig,
    run: PreparedRun | RunDirectory | str | Path | None,
    workers: WorkerGroup | None,
    storage: str | None,
    checkpoint: str | None,
) -> PreparedRun:
    """The prepared run: the given one, or ``run`` after all checks."""
    if isinstance(run, PreparedRun):
        if checkpoint is not None:
            raise ValueError(f"the run is prepared already: give checkpoint={checkpoint!r} to prepare_run")
        if run.config != config:
            raise ValueError(f"the run was prepared for another configuration: {difference(run.config, config)}")
        return run
    check_devices(config, on_cluster=workers is not None or _on_cluster(config))
    check_run(config)
    path = Path(run) if isinstance(run, str) else run
    place = None if storage is None else checked_storage(storage, run_place(path))
    return prepare_run(config, path, storage=place, checkpoint=checkpoint)


def _check_types(config: Any, workers: Any, observers: Any) -> None:
    """
    Raises:
        TypeError: naming the argument, its value and what it takes.
    """
    if not isinstance(config, RunConfig):
        raise TypeError(f"train takes a RunConfig, for example load_preset('digits'), got {config!r}")
    if workers is not None and not hasattr(workers, "collect"):
        message = "workers takes a worker group; set system.workers to 'local' or 'ray' in the configuration"
        raise TypeError(f"{message}, got {workers!r}")
    if not isinstance(observers, Sequence):
        raise TypeError(f"observers takes a list of observers, got {observers!r}")
    for observer in observers:
        if not isinstance(observer, RunObserver):
            raise TypeError(f"observers takes objects of classes derived from RunObserver, got {observer!r}")


def _on_cluster(config: RunConfig) -> bool:
    """Whether the run joins an existing cluster, which may have devices that this machine lacks."""
    ray = sys.modules.get("ray")
    return config.system.workers == "ray" and (
        "RAY_ADDRESS" in os.environ or (ray is not None and ray.is_initialized())
    )


class _Session:
    """One run in this process: opens the workers, runs the rounds, and leaves the run directory complete."""

    def __init__(self, prepared: PreparedRun, observers: Sequence[RunObserver]) -> None:
        self.config, self.checkpoint = prepared.config, prepared.checkpoint
        self.run_directory = run = prepared.open()
        self._is_new, self._is_trial = prepared.directory is None, prepared.is_trial
        self._rounds_done, self._faults = prepared.rounds_done, prepared.faults
        self._observers = ObserverGroup([*observers, ViewerFiles(), FlightObserver()])
        self._samples = all(observer.samples for observer in observers if isinstance(observer, MetricsObserver))
        manifest, storage = run.read_manifest(), prepared.storage
        shown = None if storage is None else without_credentials(storage)
        if shown is not None and shown != manifest.get("storage"):
            run.write_manifest(manifest | {"storage": shown})
        self._copy = None if storage is None else RemoteCopy(Storage(storage), run, prepared.claim.lease)
        copy = None if self._copy is None else self._copy.storage.full_place
        place = str(run.snapshots.absolute()) if copy is None else place_within(copy, "snapshots")
        self._snapshots = SnapshotPolicy(place, self.config.system.snapshot_every)
        self._status: str | None = None

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
        except BaseException as error:
            failure = self._failed(error)
            if failure is error:
                raise
            raise failure from error
        return Result(self.run_directory, status, controller.progress)

    def _run(self, controller: Controller, group: WorkerGroup, should_stop: Callable[[], bool]) -> str:
        resumed = self.checkpoint is not None
        context = RunContext(
            self.config, self.run_directory, self._rounds_done, resumed, group.plan(), controller.report_fault
        )
        self._observers.run_opened(context)
        for fault in self._faults:
            controller.report_fault(fault)
        with group:
            _listen_again(should_stop)
            if self.checkpoint is None:
                controller.start(host_record(self.config, load_task(self.config.task, torch.device("cpu"))))
            else:
                controller.resume(self.checkpoint)
            self._observers.run_started(
                replace(context, workers=group.describe(), exporter=group.exporter, links=dict(group.links))
            )
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
        return make_workers(self.config, snapshots=self._snapshots, label=self.run_directory.run_id, metrics=names)

    def _finish(self, controller: Controller) -> None:
        run, digest = self.run_directory, controller.weights_digest()
        run.log([{"kind": "run_finished", "policy_sha256": digest}])
        run.close()
        run.set_status("finished", policy_sha256=digest)
        shutil.rmtree(run.snapshots, ignore_errors=True)

    def _push(self, controller: Controller) -> None:
        """Update the copy. A failure is reported as a fault."""
        if self._copy is not None:
            try:
                self._copy.push()
            except (StorageError, RunLockedError) as error:
                controller.report_fault(Fault("storage_failed", self._copy.place, f"the copy is not complete: {error}"))

    def _failed(self, error: BaseException) -> BaseException:
        """The error to raise. The run is marked as failed or interrupted if it can be written."""
        status = "interrupted" if isinstance(error, SystemExit | KeyboardInterrupt) else "failed"
        with suppress(WriteError):
            self._observers.run_ended(self._status or "failed")
        if self._status is not None:
            return error
        failure = failure_of(error)
        if self._is_trial:  # the sweep writes its status
            return failure
        try:
            if self._is_new and self.run_directory.is_disposable():
                shutil.rmtree(self.run_directory.path, ignore_errors=True)
                return failure
            self.run_directory.set_status(status)
        except (OSError, RunDirectoryError) as unwritten:
            failure.add_note(f"the status of the run could not be changed to {status}: {unwritten}")
        place = None if self._copy is None else self._copy.place
        for note in recovery_notes(failure, self.run_directory, self.config.ppo.rounds, place):
            failure.add_note(note)
        return failure


def _listen_again(should_stop: Callable[[], bool]) -> None:
    """Install signal handlers again, since Ray installs its own when it starts."""
    if isinstance(should_stop, StopRequest):
        should_stop.listen()
