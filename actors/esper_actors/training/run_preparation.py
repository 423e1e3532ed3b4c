"""Preparation of a run: a new directory, one that is resumed, or one that is fetched from its storage.

Everything that trains begins here: :func:`esper_actors.session.train`, the command line, both sides of a comparison and
trials of sweeps. A preparation only reads, apart from fetching; the directory of a new run is made when it starts.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from esper_actors.training.checkpoint import (
    STATE_FILE,
    Checkpoint,
    CheckpointError,
    checkpoint_folders,
    checkpoints_in,
    finished_rounds,
    load_checkpoint,
    load_or_name_intact,
    newest_intact,
)
from esper_actors.training.round_summary import table_difference
from esper_ray.leyline.config.loading import build, difference
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault, UsageError
from esper_ray.leyline.names import RUNS, checked_option
from esper_ray.leyline.process.credentials import without_credentials
from esper_ray.nissa.runs.claim import RunClaim
from esper_ray.nissa.runs.copies.remote_copy import newest_stored_round, pull, stored_config
from esper_ray.nissa.runs.copies.storage import Storage, StorageError, check_place, split_place
from esper_ray.nissa.runs.run_directory import Names, RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError, read_first_rows
from esper_ray.nissa.runs.run_lock import RunLock


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that can start: its configuration, and the directory and checkpoint that it begins with.

    No other process can write the run until :meth:`release`.
    """

    config: RunConfig
    parent: Path
    name: str | None
    """Name of the directory; ``None``: made of time, configuration and seed."""
    claim: RunClaim
    directory: RunDirectory | None = None
    """The existing directory; ``None``: a new one is made."""
    checkpoint: Checkpoint | None = None
    """The checkpoint to resume from; ``None``: the run starts at its first round."""
    storage: str | None = field(default=None, repr=False)
    """Folder or URI of a copy of the run, with its credentials."""
    names: Names | None = None
    """Names in the records of a new run."""
    command: Sequence[str] = field(default=(), repr=False)
    """Command line in the manifest."""
    is_trial: bool = False
    """Whether a sweep runs it and writes its status if it ends early."""
    extended_from: int | None = None
    """Number of rounds before it is extended; ``None``: it is not."""
    faults: Sequence[Fault] = ()
    """Faults of the preparation, for the record of the run."""

    @property
    def rounds_done(self) -> int:
        """Number of finished rounds."""
        return 0 if self.checkpoint is None else self.checkpoint.round_index

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended with all its rounds."""
        if self.directory is None or self.rounds_done < self.config.ppo.rounds or self.extended_from is not None:
            return False
        return bool(self.directory.read_manifest()["status"] == "finished")

    def open(self) -> RunDirectory:
        """The directory of the run. A new one is created, one that is extended gets its new configuration.

        Raises:
            RunDirectoryError: if it cannot be written, or another process has made it meanwhile.
            RunLockedError: if another process has it.
        """
        directory = self.directory
        if directory is None:
            directory = RunDirectory.create(self.parent, self.config, self.command, self.name, self.names)
            self.claim.lock(directory.path)
            if self.storage is not None and self.claim.lease is None:
                self.claim.lease_copy(Storage(self.storage).within(directory.run_id))
        elif self.extended_from is not None:
            directory.extend(self.config, self.rounds_done, self.command)
        else:
            directory.withdraw_extension()
        return directory

    def release(self) -> None:
        """Allow other processes to write the run."""
        self.claim.release()


def prepare_run(
    config: RunConfig,
    run: RunDirectory | Path | None,
    *,
    parent: Path = RUNS,
    storage: str | None = None,
    names: Names | None = None,
    command: Sequence[str] | None = None,
    is_trial: bool = False,
    checkpoint: str | None = None,
) -> PreparedRun:
    """Start of a new run, or checkpoint of an existing one.

    A run that ended before its first checkpoint starts again in its directory. More rounds extend a run.

    Args:
        run: directory of the run, or its path; ``None``: a new run in ``parent`` with a generated name. If the path
            does not exist and the storage has a copy, the copy is fetched.
        storage: folder or URI of a copy of the run; default: the one in the manifest.
        is_trial: whether a sweep runs it. Then an older checkpoint is used if the newest is damaged.
        checkpoint: the checkpoint to resume from, such as ``round-00003``; default: the newest. Later rounds are cut.

    Raises:
        RunLockedError: if another process writes the run or its copy.
        UsageError: if the run has another configuration, with the differences, or is behind its copy; if the name of a
            new run is not valid; or if a checkpoint is named and there is no run.
        RunDirectoryError: if the path is not a run directory, or the copy holds no configuration.
        CheckpointError: if the run has rounds or events but no checkpoint, or the checkpoint cannot be used.
        EventLogError: if the event log is damaged before the checkpoint.
        StorageError: if the storage cannot hold a copy of the run, or cannot be read.
    """
    claim, command = RunClaim(), command or sys.argv
    if storage is not None:
        check_place(storage, run_place(run, parent))
    if run is None:
        _refuse_checkpoint(checkpoint)
        return PreparedRun(config, parent, None, claim, storage=storage, names=names, command=command)
    path, directory = _existing(run, is_trial=is_trial)
    try:
        present, is_remembered = None, storage is None
        if directory is not None:
            claim.lock(path)
            storage = directory.read_manifest().get("storage") if storage is None else storage
            present = directory.config()
            config = resumed_config(str(path), present, config)
        if storage is not None:
            check_place(storage, path)
            _check_readable(storage, path.name, is_remembered=is_remembered)
            directory = _synchronised(path, directory, config, storage, claim)
            present = None if directory is None else directory.config()
            config = config if present is None else resumed_config(str(path), present, config)
        faults = list[Fault]()
        loaded = _chosen_checkpoint(directory, checkpoint, config, faults if is_trial else None)
    except BaseException:
        claim.release()
        raise
    extended = None if present is None or present.ppo.rounds == config.ppo.rounds else present.ppo.rounds
    return PreparedRun(
        config, path.parent, path.name, claim, directory, loaded, storage, names, command, is_trial, extended, faults
    )


def _existing(run: RunDirectory | Path, *, is_trial: bool) -> tuple[Path, RunDirectory | None]:
    """Path and directory of ``run``; no directory if the path does not exist.

    Raises:
        UsageError: if the name of a new run is not valid.
    """
    if isinstance(run, RunDirectory):
        return run.path, run
    if run.exists():
        return run, RunDirectory.open(run)
    if not is_trial:
        checked_option("run", run.name)
    return run, None


def run_place(run: RunDirectory | Path | None, parent: Path = RUNS) -> Path:
    """Path of the directory of ``run``, or of any name in ``parent``."""
    return parent / "run" if run is None else run.path if isinstance(run, RunDirectory) else run


def _chosen_checkpoint(
    directory: RunDirectory | None, name: str | None, config: RunConfig, faults: list[Fault] | None
) -> Checkpoint | None:
    """The checkpoint ``name``, or the newest; ``None`` for a run that has not started."""
    if directory is None:
        _refuse_checkpoint(name)
        return None
    if name is not None:
        return named_checkpoint(directory, name, config)
    return None if directory.is_unstarted() else newest_checkpoint(directory, config, faults)


def _synchronised(
    path: Path, directory: RunDirectory | None, config: RunConfig, storage: str, claim: RunClaim
) -> RunDirectory | None:
    """The directory of a run with a copy: unchanged if it is not behind, or fetched; ``None``: there is neither."""
    copy = Storage(storage).within(path.name)
    if directory is None and newest_stored_round(copy) >= 0:
        resumed_config(copy.place, stored_config(copy), config)
    claim.lease_copy(copy)
    stored = newest_stored_round(copy)
    if directory is not None:
        _refuse_behind(directory, storage, stored)
    elif stored >= 0:
        directory = pull(Storage(storage), path.name, path.parent)
        claim.lock(path)
    return directory


def resumed_config(place: str, before: RunConfig, config: RunConfig) -> RunConfig:
    """The configuration under which a run is resumed: ``config``, with the schedules of the run.

    Args:
        place: of the run, for the message.
        before: configuration of the run.

    Raises:
        UsageError: if ``config`` differs in anything decisive but a greater number of rounds.
    """
    planned = before.ppo.schedule_rounds
    if config.ppo.rounds > before.ppo.rounds:
        planned = before.ppo.schedule_length
        before = _with_rounds(before, config.ppo.rounds, planned)
    if config.ppo.schedule_rounds is None and planned is not None:
        config = _with_rounds(config, config.ppo.rounds, planned)
    differences = difference(before, config)
    if differences:
        raise UsageError(f"{place} was started with another configuration:\n" + "\n".join(differences))
    return config


def _with_rounds(config: RunConfig, rounds: int, schedule_rounds: int) -> RunConfig:
    return build(config.model_dump(mode="json"), {"ppo.rounds": rounds, "ppo.schedule_rounds": schedule_rounds})


def newest_checkpoint(run: RunDirectory, config: RunConfig, faults: list[Fault] | None = None) -> Checkpoint:
    """The newest checkpoint of a run.

    Args:
        faults: if given, the newest checkpoint that can be used is returned, and a fault for a damaged one is added.

    Raises:
        CheckpointError: if there is none, or it cannot be used; with the newest one that can.
    """
    folders = checkpoint_folders(run.checkpoints)
    if not folders:
        raise CheckpointError(f"{run.path} holds no complete checkpoint, but {run.progress()}")
    load = partial(usable_checkpoint, run)
    try:
        return load_or_name_intact(folders[-1], config, partial(_resume_command, run), load)
    except CheckpointError as error:
        intact = None if faults is None else newest_intact(run.checkpoints, config, load)
        if faults is None or intact is None:
            raise
        faults.append(Fault("checkpoint_damaged", str(folders[-1]), f"{error}; it is resumed from"))
        return load(intact, config)


def usable_checkpoint(run: RunDirectory, path: Path, config: RunConfig) -> Checkpoint:
    """The checkpoint ``path`` of a run whose files it belongs to. Nothing is changed.

    Raises:
        CheckpointError: if it is damaged, disagrees with the table of rounds, or a table is shorter or was changed.
        EventLogError: if the event log was changed or is damaged.
    """
    checkpoint = load_checkpoint(path, config)
    try:
        run.check(checkpoint.position, checkpoint.round_index)
    except RunDirectoryError as error:
        raise CheckpointError(f"checkpoint {path} cannot be used: {error}") from error
    problem = table_difference(checkpoint.progress, read_first_rows(run.path / "rounds.csv", checkpoint.round_index))
    if problem is not None:
        raise CheckpointError(f"checkpoint {path} is damaged: {STATE_FILE}: {problem}")
    return checkpoint


def named_checkpoint(run: RunDirectory, name: str, config: RunConfig) -> Checkpoint:
    """The checkpoint ``name`` of a run.

    Raises:
        CheckpointError: if there is none, with the names of the others, or it cannot be used.
    """
    names = {path.name: path for path in checkpoint_folders(run.checkpoints)}
    if name not in names:
        raise CheckpointError(f"{run.path} has no checkpoint {name!r}; there are: {', '.join(names) or 'none'}")
    return load_or_name_intact(names[name], config, partial(_resume_command, run), partial(usable_checkpoint, run))


def _resume_command(run: RunDirectory, path: Path) -> str:
    return f"esper train ppo --resume {shlex.quote(str(run.path))} --checkpoint {path.name}"


def run_to_resume(resume: str, parent: Path | None) -> RunDirectory:
    """The run directory ``resume``; one of a storage (a URI) is copied into ``parent`` first.

    Raises:
        UsageError: if ``parent`` is not the folder of a local run directory.
        RunDirectoryError: if it is not a run directory.
        StorageError: if the storage cannot be read.
    """
    if "://" in resume:
        place, run_id = split_place(resume)
        return pull(Storage(place), run_id, parent or RUNS)
    run = RunDirectory.open(Path(resume))
    if parent is not None and parent.resolve() != run.path.parent.resolve():
        raise UsageError(f"--telemetry-dir {parent}: --resume continues in {run.path}; leave one of them out")
    return run


def run_by_name(
    run_id: str, parent: Path, storage: str | None, report: Callable[[str], None] = lambda line: None
) -> RunDirectory | None:
    """The run of this name in ``parent``, or fetched from ``storage``; ``None`` without either.

    A job that a scheduler repeats resumes by itself: a directory that is behind its copy is renamed, and the copy is
    fetched.

    Args:
        report: called with a line about a renamed directory.

    Raises:
        UsageError: if the name is not valid, see :mod:`esper_ray.leyline.names`.
        RunLockedError: if another process writes a directory that would be renamed.
        RunDirectoryError: if the path is not a run directory.
        StorageError: if the storage cannot be read.
    """
    checked_option("--run-id", run_id)
    run = RunDirectory.open(parent / run_id) if (parent / run_id).exists() else None
    stored = -1 if storage is None else newest_stored_round(Storage(storage).within(run_id))
    if storage is None or stored <= (-1 if run is None else _newest_round(run)):
        return run
    if run is not None:
        with RunLock(run.path):
            aside = _unused(parent, f"{run_id}.behind")
            os.rename(run.path, aside)
        place = without_credentials(storage)
        report(f"{run.path} was behind its copy in {place}, which is resumed; the directory is now {aside}")
    return pull(Storage(storage), run_id, parent)


def _check_readable(storage: str, name: str, *, is_remembered: bool) -> None:
    """Check that the copy of a run can be read.

    Args:
        is_remembered: whether the place is that of the manifest, which has no credentials.

    Raises:
        StorageError: if the storage cannot be read.
    """
    try:
        newest_stored_round(Storage(storage).within(name))
    except StorageError as error:
        if not is_remembered or "://" not in storage:
            raise
        raise StorageError(
            f"{error}; credentials of a URI are not stored with a run: give the URI again with --storage, or set them "
            "in the environment or a profile"
        ) from error


def _newest_round(run: RunDirectory) -> int:
    """Round of the newest checkpoint; -1 without one."""
    return max((finished_rounds(checkpoint) for checkpoint in checkpoints_in(run.checkpoints)), default=-1)


def _unused(parent: Path, name: str) -> Path:
    """The first path ``name-<number>`` in ``parent`` that does not exist."""
    return next(path for number in count(1) if not (path := parent / f"{name}-{number}").exists())


def _refuse_checkpoint(checkpoint: str | None) -> None:
    """
    Raises:
        UsageError: if a checkpoint is named for a run that does not exist.
    """
    if checkpoint is not None:
        raise UsageError(f"checkpoint {checkpoint}: there is no run to resume; leave it out to start a new one")


def _refuse_behind(run: RunDirectory, storage: str, stored: int) -> None:
    """
    Raises:
        UsageError: if the copy of ``run`` has ``stored`` rounds, more than the run: they would be overwritten.
    """
    local = _newest_round(run)
    if stored > local:
        raise UsageError(
            f"{run.path} has {max(local, 0)} finished rounds, its copy in {storage} has {stored}: move the directory "
            "away to resume from the copy, or give the run another name"
        )
