"""Lookup of the run to resume, by path or name, locally or stored."""

import shutil
from pathlib import Path

from esper_actors.training.checkpoint import checkpoints_in, finished_rounds
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.runs.remote_copy import STATE, pull
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.storage import Storage, split_place

FORBIDDEN = set('/\\:*?"<>|')


def run_to_resume(resume: str, parent: Path | None) -> RunDirectory:
    """The run directory ``resume``; one of a storage (a URI) is copied into ``parent`` first.

    Raises:
        UsageError: if ``parent`` is not the folder of a local run directory.
        RunDirectoryError: if it is not a run directory.
        StorageError: if the storage cannot be read.
    """
    if "://" in resume:
        place, run_id = split_place(resume)
        return pull(Storage(place), run_id, parent or Path("runs"))
    run = RunDirectory.open(Path(resume))
    if parent is not None and parent.resolve() != run.path.parent.resolve():
        raise UsageError(f"--telemetry-dir {parent}: --resume continues in {run.path}; leave one of them out")
    return run


def run_by_name(run_id: str, parent: Path, storage: str | None) -> RunDirectory | None:
    """The local or stored run of this name with the newest checkpoint.

    ``None`` without a checkpoint.

    A local directory without a complete checkpoint, left by a run that died in its first round, is removed.

    Raises:
        UsageError: if the name is not valid as the name of a folder.
        RunDirectoryError: if the local directory is not a run directory.
        StorageError: if the storage cannot be read.
    """
    if not run_id.strip(".") or FORBIDDEN & set(run_id):
        raise UsageError(f"--run-id {run_id!r} cannot be the name of a folder")
    path, local_round = parent / run_id, -1
    if path.exists():
        checkpoints = checkpoints_in(RunDirectory.open(path).checkpoints)
        local_round = finished_rounds(checkpoints[-1]) if checkpoints else -1
    stored_round = newest_stored_round(Storage(storage).within(run_id)) if storage is not None else -1
    if local_round < 0 or stored_round > local_round:
        shutil.rmtree(path, ignore_errors=True)
    if stored_round > local_round and storage is not None:
        return pull(Storage(storage), run_id, parent)
    return RunDirectory.open(path) if local_round >= 0 else None


def newest_stored_round(copy: Storage) -> int:
    """Round of the newest complete checkpoint in a copy of a run; -1 without one."""
    names = [name for name in copy.names("checkpoints") if copy.stamp(f"checkpoints/{name}/{STATE}") is not None]
    return max((finished_rounds(Path(name)) for name in names), default=-1)
