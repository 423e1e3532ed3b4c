"""Which run to go on with: one that is named, here or in a storage."""

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
        UsageError: if a directory of this machine is to be gone on with somewhere else.
        RunDirectoryError: if it is no run.
        StorageError: if the storage cannot be read.
    """
    if "://" in resume:
        place, run_id = split_place(resume)
        return pull(Storage(place), run_id, parent or Path("runs"))
    run = RunDirectory.open(Path(resume))
    if parent is not None and parent.resolve() != run.path.parent.resolve():
        raise UsageError(f"--telemetry-dir {parent}: --resume goes on in {run.path}; leave one of them out")
    return run


def run_of_name(run_id: str, parent: Path, storage: str | None) -> RunDirectory | None:
    """The run of this name, from wherever it has come further; ``None`` if there is none to go on with.

    A directory without a complete checkpoint, left by a run that died at its very beginning, is removed.

    Raises:
        UsageError: if the name cannot be that of a folder.
        RunDirectoryError: if what is there is no run.
        StorageError: if the storage cannot be read.
    """
    if not run_id.strip(".") or FORBIDDEN & set(run_id):
        raise UsageError(f"--run-id {run_id!r} cannot be the name of a folder")
    here, local = parent / run_id, -1
    if here.exists():
        found = checkpoints_in(RunDirectory.open(here).checkpoints)
        local = finished_rounds(found[-1]) if found else -1
    there = _newest(Storage(storage).within(run_id)) if storage is not None else -1
    if local < 0 or there > local:
        shutil.rmtree(here, ignore_errors=True)
    if there > local and storage is not None:
        return pull(Storage(storage), run_id, parent)
    return RunDirectory.open(here) if local >= 0 else None


def _newest(copy: Storage) -> int:
    """Rounds of the newest complete checkpoint in a copy of a run; -1 without one."""
    names = [name for name in copy.names("checkpoints") if copy.stamp(f"checkpoints/{name}/{STATE}") is not None]
    return max((finished_rounds(Path(name)) for name in names), default=-1)
