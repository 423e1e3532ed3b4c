"""Copy of a run directory in a storage, from which it can be resumed.

Growing files are copied in pieces, each named by its start, in bytes or in events, so that every byte is sent once;
compacted events replace their pieces. A checkpoint is complete when its ``state.json`` exists, which is written last,
after everything that it depends on.
"""

from collections.abc import Mapping
from pathlib import Path

from esper_ray.nissa.log.events import INTEGRITY
from esper_ray.nissa.log.parquet import INDEX, parts_in
from esper_ray.nissa.runs.run_directory import GROWING, RunDirectory, RunDirectoryError
from esper_ray.nissa.runs.storage import Storage

WHOLE = ("config.yaml", "manifest.json", "faults.jsonl", INTEGRITY)
"""Files that are copied as a whole."""
STATE, TENSORS = "state.json", "learner.safetensors"
_LINES, _PARTS = "events.jsonl", "events"


class RemoteCopy:
    """Copy ``<storage>/<run id>`` of a run directory."""

    def __init__(self, storage: Storage, run: RunDirectory) -> None:
        self.storage = storage.within(run.run_id)
        self._run = run
        self._copied: dict[str, int] = dict.fromkeys((*GROWING, _LINES), 0)

    @property
    def place(self) -> str:
        """Place of the copy."""
        return self.storage.place

    def rewind(self, position: Mapping[str, int]) -> None:
        """Rewind the copy to ``position``, after the run directory has been rewound."""
        self.storage.remove(INTEGRITY)
        for name, end in (*((name, position[name]) for name in GROWING), (_LINES, position["sequence"])):
            pieces = [int(piece) for piece in self.storage.names(_pieces(name))]
            for begin in pieces:
                if begin >= end:
                    self.storage.remove(f"{_pieces(name)}/{begin:015d}")
            last = max((begin for begin in pieces if begin < end), default=0)
            self._copied[name] = last  # that piece may extend beyond the position: it is written again

    def push(self) -> None:
        """Copy what is new, and remove what was removed.

        Raises:
            StorageError: if the storage cannot be written. The next call retries.
        """
        for name in WHOLE:
            if (self._run.path / name).exists():
                self.storage.write(name, (self._run.path / name).read_bytes())
        for name in GROWING:
            begin = self._copied[name]
            with (self._run.path / name).open("rb") as file:
                file.seek(begin)
                self._push_piece(name, file.read(), begin, file.tell())
        self._push_events()
        self._push_checkpoints()

    def _push_piece(self, name: str, content: bytes, begin: int, end: int) -> None:
        if content:
            self.storage.write(f"{_pieces(name)}/{begin:015d}", content)
            self._copied[name] = end

    def _push_events(self) -> None:
        log = self._run.event_log
        local = {part.path.name: part for part in log.parts()}
        remote = set(self.storage.names(_PARTS))
        for name, part in local.items():
            if name not in remote or self.storage.stamp(f"{_PARTS}/{name}/{INDEX}") is None:
                files = sorted(part.path.iterdir(), key=lambda file: file.name == INDEX)  # the index last
                for file in files:
                    self.storage.write(f"{_PARTS}/{name}/{file.name}", file.read_bytes())
        compacted = max((part.last for part in local.values()), default=-1) + 1
        begin = max(self._copied[_LINES], compacted)
        self._push_piece(_LINES, log.lines_from(begin).encode(), begin, log.counts.sequence)
        for name in remote - local.keys():
            self.storage.remove(f"{_PARTS}/{name}")
        for piece in self.storage.names(_pieces(_LINES)):
            if int(piece) < compacted:
                self.storage.remove(f"{_pieces(_LINES)}/{piece}")

    def _push_checkpoints(self) -> None:
        local = {path.name for path in self._run.checkpoints.glob("round-*") if (path / STATE).is_file()}
        remote = set(self.storage.names("checkpoints"))
        complete = {name for name in remote if self.storage.stamp(f"checkpoints/{name}/{STATE}") is not None}
        for name in sorted(local - complete):
            for file in (TENSORS, STATE):
                content = (self._run.checkpoints / name / file).read_bytes()
                self.storage.write(f"checkpoints/{name}/{file}", content)
        for name in remote - local:
            self.storage.remove(f"checkpoints/{name}/{STATE}")  # first, so that it is never incomplete
            self.storage.remove(f"checkpoints/{name}")


def pull(storage: Storage, run_id: str, parent: Path) -> RunDirectory:
    """Run directory under ``parent``, restored from the copy in ``storage``.

    Raises:
        RunDirectoryError: if there is no such copy, or ``parent`` has a directory of that name.
        StorageError: if the storage cannot be read.
    """
    source, target = storage.within(run_id), parent / run_id
    if target.exists():
        raise RunDirectoryError(f"{target} exists: resume it, or move it away")
    files = {name: source.read(name) for name in WHOLE}
    if files["config.yaml"] is None or files["manifest.json"] is None:
        raise RunDirectoryError(f"{source.place} holds no run: it has no config.yaml or no manifest.json")
    (target / "checkpoints").mkdir(parents=True)
    for name, content in files.items():
        if content is not None:
            (target / name).write_bytes(content)
    for name in GROWING:
        with (target / name).open("wb") as file:
            for piece in source.names(_pieces(name)):
                if int(piece) != file.tell():
                    raise RunDirectoryError(f"{source.place}: a part of {name} is missing at byte {file.tell()}")
                file.write(source.read(f"{_pieces(name)}/{piece}") or b"")
    _pull_events(source, target)
    for name in source.names("checkpoints"):
        state, tensors = (source.read(f"checkpoints/{name}/{file}") for file in (STATE, TENSORS))
        if state is not None and tensors is not None:
            (target / "checkpoints" / name).mkdir()
            (target / "checkpoints" / name / TENSORS).write_bytes(tensors)
            (target / "checkpoints" / name / STATE).write_bytes(state)
    return RunDirectory.open(target)


def _pull_events(source: Storage, target: Path) -> None:
    for name in source.names(_PARTS):
        if source.stamp(f"{_PARTS}/{name}/{INDEX}") is None:
            continue  # an incomplete copy; its lines still exist
        (target / _PARTS / name).mkdir(parents=True)
        for file in source.names(f"{_PARTS}/{name}"):
            (target / _PARTS / name / file).write_bytes(source.read(f"{_PARTS}/{name}/{file}") or b"")
    compacted = max((part.last for part in parts_in(target / _PARTS)), default=-1) + 1
    with (target / _LINES).open("wb") as lines:
        for piece in source.names(_pieces(_LINES)):
            if int(piece) >= compacted:
                lines.write(source.read(f"{_pieces(_LINES)}/{piece}") or b"")


def _pieces(name: str) -> str:
    return f"{name}.parts"
