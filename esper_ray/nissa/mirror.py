"""A copy of a run directory in a storage, from which the run can be gone on with on any machine.

Files that grow are copied in parts, each named by where it begins, so that every byte travels once. A
checkpoint is complete when its ``state.json`` is there, which is written last; by then everything that
it counts on is there too.
"""

from collections.abc import Mapping
from pathlib import Path

from esper_ray.nissa.run_directory import GROWING, RunDirectory, RunDirectoryError
from esper_ray.nissa.storage import Storage

WHOLE = ("config.yaml", "manifest.json", "faults.jsonl")
"""Files that are copied as they are."""
STATE, TENSORS = "state.json", "learner.safetensors"


class Mirror:
    """Keeps ``<storage>/<run id>`` like the run directory."""

    def __init__(self, storage: Storage, run: RunDirectory) -> None:
        self.storage = storage.within(run.run_id)
        self._run = run
        self._copied: dict[str, int] = dict.fromkeys(GROWING, 0)

    @property
    def place(self) -> str:
        """Where the copy is."""
        return self.storage.place

    def rewind(self, position: Mapping[str, int]) -> None:
        """Forget what was copied of the growing files after ``position``, as ``RunDirectory.rewind`` does."""
        for name in GROWING:
            for part in self.storage.names(_parts(name)):
                if int(part) >= position[name]:
                    self.storage.remove(f"{_parts(name)}/{part}")
            self._copied[name] = position[name]

    def push(self) -> None:
        """Copy what is new, and remove what is gone.

        Raises:
            StorageError: if the storage cannot be written. The next call makes up for it.
        """
        for name in WHOLE:
            if (self._run.path / name).exists():
                self.storage.write(name, (self._run.path / name).read_bytes())
        for name in GROWING:
            self._push_growth(name)
        here = {path.name for path in self._run.checkpoints.glob("round-*") if (path / STATE).is_file()}
        there = set(self.storage.names("checkpoints"))
        complete = {name for name in there if self.storage.stamp(f"checkpoints/{name}/{STATE}") is not None}
        for name in sorted(here - complete):
            for file in (TENSORS, STATE):
                content = (self._run.checkpoints / name / file).read_bytes()
                self.storage.write(f"checkpoints/{name}/{file}", content)
        for name in there - here:
            self.storage.remove(f"checkpoints/{name}/{STATE}")  # first of all, so that it is complete or not there
            self.storage.remove(f"checkpoints/{name}")

    def _push_growth(self, name: str) -> None:
        begin = self._copied[name]
        with (self._run.path / name).open("rb") as file:
            file.seek(begin)
            content = file.read()
        if content:
            self.storage.write(f"{_parts(name)}/{begin:015d}", content)
            self._copied[name] = begin + len(content)


def pull(storage: Storage, run_id: str, parent: Path) -> RunDirectory:
    """A run directory under ``parent`` made from the copy in ``storage``.

    Raises:
        RunDirectoryError: if there is no such copy, or ``parent`` has a directory of that name.
        StorageError: if the storage cannot be read.
    """
    source, target = storage.within(run_id), parent / run_id
    if target.exists():
        raise RunDirectoryError(f"{target} exists: go on with it, or move it away")
    files = {name: source.read(name) for name in WHOLE}
    if files["config.yaml"] is None or files["manifest.json"] is None:
        raise RunDirectoryError(f"{source.place} holds no run: it has no config.yaml or no manifest.json")
    target.mkdir(parents=True)
    (target / "checkpoints").mkdir()
    for name, content in files.items():
        if content is not None:
            (target / name).write_bytes(content)
    for name in GROWING:
        with (target / name).open("wb") as file:
            for part in source.names(_parts(name)):
                if int(part) != file.tell():
                    raise RunDirectoryError(f"{source.place}: a part of {name} is missing at byte {file.tell()}")
                file.write(source.read(f"{_parts(name)}/{part}") or b"")
    for name in source.names("checkpoints"):
        state, tensors = (source.read(f"checkpoints/{name}/{file}") for file in (STATE, TENSORS))
        if state is not None and tensors is not None:
            (target / "checkpoints" / name).mkdir()
            (target / "checkpoints" / name / TENSORS).write_bytes(tensors)
            (target / "checkpoints" / name / STATE).write_bytes(state)
    return RunDirectory.open(target)


def _parts(name: str) -> str:
    return f"{name}.parts"
