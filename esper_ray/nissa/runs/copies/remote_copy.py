"""Copy of a run directory in a storage, from which it can be resumed.

Growing files are copied in pieces, each named by its start, in bytes or in events, so that every byte is sent once;
compacted events replace their pieces. A checkpoint is complete when its ``state.json`` exists, which is written last,
after everything that it depends on.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from esper_ray.leyline.config.loading import ConfigError, build_complete, parse
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.files.durable import changing, write_folder
from esper_ray.nissa.log.parquet import INDEX, Part
from esper_ray.nissa.log.reader import INTEGRITY
from esper_ray.nissa.runs.copies.lease import Lease
from esper_ray.nissa.runs.copies.storage import Storage, StorageError
from esper_ray.nissa.runs.position import GROWING, Position
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError

WHOLE = ("config.yaml", "manifest.json", "faults.jsonl", INTEGRITY)
"""Files that are copied as a whole."""
STATE, TENSORS = "state.json", "learner.safetensors"
EVENT_LINES, EVENT_PARTS = "events.jsonl", "events"
PIECE_NAME, CHECKPOINT_NAME, PART_NAME = (
    re.compile(name) for name in (r"[0-9]{15}", r"round-[0-9]{5,9}", r"[0-9]{12,18}-[0-9]{12,18}")
)
"""Names of what a copy consists of. Other files in its folders are passed over, and never removed."""


class RemoteCopy:
    """Copy ``<storage>/<run id>`` of a run directory."""

    def __init__(self, storage: Storage, run: RunDirectory, lease: Lease | None = None) -> None:
        """
        Args:
            lease: checked before every change of the copy.
        """
        self._lease = lease
        self.storage = storage.within(run.run_id)
        self._run = run
        self._copied: dict[str, int] = dict.fromkeys((*GROWING, EVENT_LINES), 0)
        self._checked = False

    @property
    def place(self) -> str:
        """Place of the copy."""
        return self.storage.place

    def rewind(self, position: Position) -> None:
        """Rewind the copy to ``position``, after the run directory has been rewound.

        Raises:
            StorageError: if the storage cannot be written, or holds later rounds of the run than the directory.
            RunLockedError: if another process has taken the lease over.
        """
        self._check_owner()
        self.storage.remove(INTEGRITY)
        ends = {name: prefix.size for name, prefix in position.tables.items()} | {EVENT_LINES: position.events.sequence}
        for name, end in ends.items():
            pieces = [int(piece) for piece in named(self.storage, pieces_of(name), PIECE_NAME)]
            for begin in pieces:
                if begin >= end:
                    self.storage.remove(f"{pieces_of(name)}/{begin:015d}")
            last = max((begin for begin in pieces if begin < end), default=0)
            self._copied[name] = last  # that piece may extend beyond the position: it is written again

    def remove_later(self, round_index: int) -> None:
        """Remove the checkpoints after ``round_index`` from the copy, before the directory loses them.

        Raises:
            StorageError: if the storage cannot be written, or holds later rounds of the run than the directory.
            RunLockedError: if another process has taken the lease over.
        """
        self._check_owner()
        for name in sorted(_stored_checkpoints(self.storage), reverse=True):
            if _newest_round([name]) > round_index:
                self._remove_checkpoint(name)

    def push(self) -> None:
        """Copy what is new, and remove what was removed.

        Raises:
            StorageError: if the storage cannot be written, or holds later rounds of the run than the directory. The
                next call retries.
            RunLockedError: if another process has taken the lease over.
        """
        self._check_owner()
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

    def _check_owner(self) -> None:
        """Check the lease, and once that the copy holds no later round.

        A push would remove a later round.
        """
        if self._lease is not None:
            self._lease.check()
        if self._checked:
            return
        stored, local = newest_stored_round(self.storage), _newest_round(self._complete_checkpoints())
        if stored > local:
            raise StorageError(
                f"the copy {self.place} holds round {stored}, {self._run.path} holds round {local}: it stays unchanged"
            )
        self._checked = True

    def _complete_checkpoints(self) -> set[str]:
        return {path.name for path in self._run.checkpoints.glob("round-*") if (path / STATE).is_file()}

    def _push_piece(self, name: str, content: bytes, begin: int, end: int) -> None:
        if content:
            self.storage.write(f"{pieces_of(name)}/{begin:015d}", content)
            self._copied[name] = end

    def _push_events(self) -> None:
        log = self._run.event_log
        local = {part.path.name: part for part in log.parts()}
        remote = set(named(self.storage, EVENT_PARTS, PART_NAME))
        for name, part in local.items():
            if name not in remote or self.storage.stamp(f"{EVENT_PARTS}/{name}/{INDEX}") is None:
                files = sorted(part.path.iterdir(), key=lambda file: file.name == INDEX)  # the index last
                for file in files:
                    self.storage.write(f"{EVENT_PARTS}/{name}/{file.name}", file.read_bytes())
        compacted = max((part.last for part in local.values()), default=-1) + 1
        begin = max(self._copied[EVENT_LINES], compacted)
        self._push_piece(EVENT_LINES, log.lines_from(begin), begin, log.counts.sequence)
        for name in remote - local.keys():
            self.storage.remove(f"{EVENT_PARTS}/{name}")
        for piece in named(self.storage, pieces_of(EVENT_LINES), PIECE_NAME):
            if int(piece) < compacted:
                self.storage.remove(f"{pieces_of(EVENT_LINES)}/{piece}")

    def _push_checkpoints(self) -> None:
        local, remote = self._complete_checkpoints(), set(named(self.storage, "checkpoints", CHECKPOINT_NAME))
        complete = _stored_checkpoints(self.storage)
        for name in sorted(local - complete):
            for file in (TENSORS, STATE):
                content = (self._run.checkpoints / name / file).read_bytes()
                self.storage.write(f"checkpoints/{name}/{file}", content)
        for name in remote - local:
            self._remove_checkpoint(name)

    def _remove_checkpoint(self, name: str) -> None:
        self.storage.remove(f"checkpoints/{name}/{STATE}")  # first, so that it is never incomplete
        self.storage.remove(f"checkpoints/{name}")


def pull(storage: Storage, run_id: str, parent: Path) -> RunDirectory:
    """Run directory under ``parent``, restored from the copy in ``storage``. It appears as a whole.

    Raises:
        RunDirectoryError: if there is no such copy, or ``parent`` has a directory of that name.
        StorageError: if the storage cannot be read.
        WriteError: if the directory cannot be written.
    """
    source, target = storage.within(run_id), parent / run_id
    if target.exists():
        raise RunDirectoryError(f"{target} exists: resume it, or move it away")
    files = {name: source.read(name) for name in WHOLE}
    if files["config.yaml"] is None or files["manifest.json"] is None:
        raise RunDirectoryError(f"{source.place} holds no run: it has no config.yaml or no manifest.json")
    with changing(parent):
        parent.mkdir(parents=True, exist_ok=True)
    write_folder(target, _stored_files(source, files))
    with changing(target):
        (target / "checkpoints").mkdir(exist_ok=True)
    return RunDirectory.open(target)


def newest_stored_round(copy: Storage) -> int:
    """Round of the newest complete checkpoint in a copy of a run; -1 without one.

    Raises:
        StorageError: if the storage cannot be read.
    """
    return _newest_round(_stored_checkpoints(copy))


def stored_config(copy: Storage) -> RunConfig:
    """Configuration in a copy of a run.

    Raises:
        RunDirectoryError: if there is none, or it cannot be used.
        StorageError: if the storage cannot be read.
    """
    content = copy.read("config.yaml")
    if content is None:
        raise RunDirectoryError(f"{copy.place} holds no run: it has no config.yaml")
    try:
        file = parse(content, f"{copy.place}/config.yaml")
        return build_complete(file.tree, file)
    except ConfigError as error:
        raise RunDirectoryError(f"configuration of {copy.place} cannot be used: {error}") from error


def _stored_checkpoints(copy: Storage) -> set[str]:
    """Names of the complete checkpoints in a copy of a run."""
    names = named(copy, "checkpoints", CHECKPOINT_NAME)
    return {name for name in names if copy.stamp(f"checkpoints/{name}/{STATE}") is not None}


def _newest_round(checkpoints: Collection[str]) -> int:
    return max((int(name.removeprefix("round-")) for name in checkpoints), default=-1)


def _stored_files(source: Storage, whole: Mapping[str, bytes | None]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a run directory, from its copy.

    Args:
        whole: contents of the files that are copied as a whole.

    Raises:
        RunDirectoryError: if a piece of a growing file is missing.
        StorageError: if the storage cannot be read.
    """
    yield from ((name, content) for name, content in whole.items() if content is not None)
    for name in GROWING:
        content = b""
        for piece in named(source, pieces_of(name), PIECE_NAME):
            if int(piece) != len(content):
                raise RunDirectoryError(f"{source.place}: a part of {name} is missing at byte {len(content)}")
            content += source.read(f"{pieces_of(name)}/{piece}") or b""
        yield name, content
    yield from _stored_events(source)
    for name in named(source, "checkpoints", CHECKPOINT_NAME):
        state, tensors = (source.read(f"checkpoints/{name}/{file}") for file in (STATE, TENSORS))
        if state is not None and tensors is not None:
            yield f"checkpoints/{name}/{TENSORS}", tensors
            yield f"checkpoints/{name}/{STATE}", state


def _stored_events(source: Storage) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of the event log, from its copy."""
    compacted = 0
    for name in named(source, EVENT_PARTS, PART_NAME):
        if source.stamp(f"{EVENT_PARTS}/{name}/{INDEX}") is None:
            continue  # an incomplete copy; its lines still exist
        compacted = max(compacted, Part.at(Path(name)).last + 1)
        for file in source.names(f"{EVENT_PARTS}/{name}"):
            yield f"{EVENT_PARTS}/{name}/{file}", source.read(f"{EVENT_PARTS}/{name}/{file}") or b""
    pieces = [piece for piece in named(source, pieces_of(EVENT_LINES), PIECE_NAME) if int(piece) >= compacted]
    yield EVENT_LINES, b"".join(source.read(f"{pieces_of(EVENT_LINES)}/{piece}") or b"" for piece in pieces)


def named(storage: Storage, folder: str, pattern: re.Pattern[str]) -> list[str]:
    """Names in ``folder`` of the form ``pattern``, sorted."""
    return [name for name in storage.names(folder) if pattern.fullmatch(name)]


def pieces_of(name: str) -> str:
    """Folder of the pieces of a growing file."""
    return f"{name}.parts"
