"""Compacted events: folders of Parquet files, each written atomically."""

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.digests import digest_of
from esper_ray.leyline.files.durable import changing, write_folder
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA, KINDS
from esper_ray.nissa.log.lines import check_file, json_object, read_content
from esper_ray.nissa.log.numbering import LogNames
from esper_ray.nissa.log.tables import PROVENANCE, by_kind, records_of, schema_of, table_of
from esper_ray.nissa.state.codec import StateError, state_of, summary_text

# pyarrow takes a relative path such as run-12:30/events for a URI: it gets absolute ones.

INDEX = "part.json"
"""Index of a folder: versions, rows, digests, sources."""
SUMMARY = "summary.json"
"""State of a folder's events, from which viewers start. It is not evidence, and may be missing."""
PART_BYTES = 2**31
"""Greatest size of a Parquet file after decompression."""
_NAME = re.compile(r"[0-9]{12,18}-[0-9]{12,18}")
_UNREADABLE = (OSError, pa.ArrowException, ValueError, KeyError, TypeError, OverflowError, MemoryError)


class EventLogError(UserError):
    """An event log that is damaged, incomplete, or of another version."""

    remedy = (
        "Copy the run again from where it was written. Without such a copy, remove the line or move away the folder "
        "that the message names, and read the log without `--evidence`."
    )


_Count = Annotated[StrictInt, Field(ge=0)]


class FileIndex(BaseModel):
    """Rows and digest of one Parquet file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rows: _Count
    sha256: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]


class PartIndex(BaseModel):
    """Index of a part, ``part.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: StrictInt = Field(alias="schema")
    first: _Count
    last: _Count
    kinds: dict[StrictStr, FileIndex]
    """Its Parquet files by kind."""
    sources: dict[StrictStr, _Count]
    """Number of events by source."""


@dataclass(frozen=True, slots=True)
class Part:
    """One folder of Parquet files."""

    path: Path
    first: int
    """Number of its first event."""
    last: int
    _read: list[tuple[PartIndex, str]] = field(default_factory=list, init=False, repr=False, compare=False)
    """Its index and digest, once they are read."""

    @classmethod
    def at(cls, path: Path) -> "Part":
        """The part in a folder of ``write_part``."""
        first, last = path.name.split("-")
        return cls(path, int(first), int(last))

    def index(self) -> PartIndex:
        """Version, rows and digests of its files, events by source. It is read once.

        Raises:
            EventLogError: if it cannot be read, is of another version, or does not fit the name of the folder.
        """
        return self._index_and_digest()[0]

    def digest(self) -> str:
        """SHA-256 of the index, which holds the digests of the files.

        Raises:
            EventLogError: see :meth:`index`.
        """
        return self._index_and_digest()[1]

    def _index_and_digest(self) -> tuple[PartIndex, str]:
        if not self._read:
            file = self.path / INDEX
            try:
                content = read_content(file)
                tree = json_object(content)
            except ValueError as error:
                raise EventLogError(f"{file} {error}") from error
            self._read.append((self._checked_index(tree), sha256(content).hexdigest()))
        return self._read[0]

    def _checked_index(self, tree: dict[str, Any]) -> PartIndex:
        file = self.path / INDEX
        check_schema(tree.get("schema"), self.path)
        try:
            index = PartIndex.model_validate(tree)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise EventLogError(f"{file}: {place}: {first['msg']}, got {first['input']!r:.80}") from error
        if problem := self._index_problem(index):
            raise EventLogError(f"{file}: {problem}")
        return index

    def _index_problem(self, index: PartIndex) -> str | None:
        """First number of the index that does not fit the others or the folder's name."""
        count = self.last - self.first + 1
        if (index.first, index.last) != (self.first, self.last):
            return f"it is the index of events {index.first} to {index.last}, the folder is {self.path.name}"
        if unknown := index.kinds.keys() - KINDS.keys():
            return f"kinds: {min(unknown)!r:.80} is not one of {', '.join(KINDS)}"
        rows, sources = sum(kind.rows for kind in index.kinds.values()), sum(index.sources.values())
        if not count == rows == sources:
            return f"events {self.first} to {self.last} are {count}, kinds counts {rows} and sources {sources}"
        return None

    def file(self, kind: str) -> Path:
        """Path of the Parquet file of a kind."""
        return self.path / f"{kind}.parquet"

    def missing_files(self) -> list[Path]:
        """Its Parquet files that are not there.

        Raises:
            EventLogError: if its index is damaged.
        """
        try:
            with os.scandir(self.path) as entries:
                present = {entry.name for entry in entries if entry.is_file()}
        except OSError:
            present = set()
        return [self.file(kind) for kind in self.index().kinds if f"{kind}.parquet" not in present]

    def table(self, kind: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one kind, in order.

        Args:
            columns: only these; ``None`` for all.

        Raises:
            EventLogError: if its file cannot be read.
        """
        with self._reading(kind):
            check_file(self.file(kind))
            with pq.ParquetFile(self.file(kind).absolute()) as file:
                return file.read(columns, use_threads=False)

    def rows(self, kind: str, table: pa.Table, columns: Collection[str] | None = None) -> list[dict[str, Any]]:
        """Events of some rows of :meth:`table`.

        Args:
            columns: the only ones that the events have; ``None`` for all.

        Raises:
            EventLogError: if they are not such events.
        """
        with self._reading(kind):
            return records_of(kind, table, columns)

    @contextmanager
    def _reading(self, kind: str) -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            raise EventLogError(f"{self.file(kind)} cannot be read: {_brief(error)}") from error

    def records(
        self, kinds: Collection[str] | None = None, columns: Mapping[str, Sequence[str]] | None = None
    ) -> list[dict[str, Any]]:
        """Events, in order.

        Args:
            kinds: only these; ``None`` for all.
            columns: the only ones that are read, by kind, ``entries.list.element.source`` for a nested one; ``seq`` and
                ``nonfinite`` must be among them. Other kinds have all of theirs.

        Raises:
            EventLogError: if a file cannot be read, or the numbers of the events are not those of the part.
        """
        records: list[dict[str, Any]] = []
        for kind in self.index().kinds:
            if kinds is not None and kind not in kinds:
                continue
            read = None if columns is None else columns.get(kind)
            top = None if read is None else dict.fromkeys(name.partition(".")[0] for name in read)
            records += self.rows(kind, self.table(kind, read), top)
        if any(record["seq"] is None for record in records):
            raise EventLogError(f"{self.path}: an event has no number")
        records.sort(key=lambda record: int(record["seq"]))
        if kinds is None and [record["seq"] for record in records] != list(range(self.first, self.last + 1)):
            raise EventLogError(f"{self.path}: its events are not those with the numbers {self.first} to {self.last}")
        return records

    def damage(self, names: LogNames, *, digests: bool) -> Iterator[str]:
        """Problems of its files: missing, unreadable, of another schema, with other events or of another run.

        Args:
            names: run and group of its events.
            digests: whether every byte is compared with the digests of the index.
        """
        if not self.path.is_dir():
            yield f"{self.path} is not a folder"
            return
        try:
            kinds = self.index().kinds
        except EventLogError as error:
            yield str(error)
            return
        files = {kind: _file_problem(self.file(kind), kind, expected, digests) for kind, expected in kinds.items()}
        yield from (f"{self.file(kind)} {problem}" for kind, problem in files.items() if problem)
        if not any(files.values()) and (problem := self._events_problem(kinds, names)):
            yield problem

    def _events_problem(self, kinds: Collection[str], names: LogNames) -> str | None:
        """First event with a wrong or repeated number, or with other names than the log."""
        numbers: list[int] = []
        for kind in kinds:
            try:
                path = self.file(kind).absolute()
                table = pq.read_table(path, columns=["seq", "run", "group"], partitioning=None)
                rows = [table[column].to_pylist() for column in table.column_names]
            except _UNREADABLE as error:
                return f"{self.file(kind)} cannot be read: {_brief(error)}"
            for row, (number, *origin) in enumerate(zip(*rows, strict=True)):
                if number is None:
                    return f"{self.file(kind)}: row {row} has no seq, the number of the event"
                if problem := names.problem(number, *origin):
                    return f"{self.file(kind)}: event {number}: {problem}"
            numbers += rows[0]
        if sorted(numbers) != list(range(self.first, self.last + 1)):
            return f"{self.path}: its events are not those with the numbers {self.first} to {self.last}"
        return None


def _file_problem(file: Path, kind: str, expected: FileIndex, digests: bool) -> str | None:
    """What is wrong with a Parquet file, as the rest of a sentence about it."""
    try:
        check_file(file)
    except ValueError as error:
        return str(error)
    try:
        if digests and digest_of(file) != expected.sha256:
            return f"has changed since it was written: {INDEX} has another digest"
        footer = pq.read_metadata(file.absolute())
        size = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        if footer.num_rows != expected.rows:
            return f"holds {footer.num_rows} rows, {INDEX} counts {expected.rows}"
        if size > PART_BYTES:
            return f"would take {size} bytes of memory, at most {PART_BYTES} are read"
        return _columns_problem(footer.schema.to_arrow_schema(), file, kind, expected)
    except _UNREADABLE as error:
        return f"cannot be read: {_brief(error)}"


def _columns_problem(columns: pa.Schema, file: Path, kind: str, expected: FileIndex) -> str | None:
    """What is wrong with the columns of a file.

    A program of the same version of the log may have had fewer fields: then its digest says that nothing was removed.
    """
    declared = schema_of(kind)
    if columns.equals(declared):
        return None
    names = columns.names
    fewer = len(set(names)) == len(names) and all(
        name in declared.names and columns.field(name).equals(declared.field(name)) for name in names
    )
    if fewer and set(names) >= set(PROVENANCE) and digest_of(file) == expected.sha256:
        return None
    return f"does not have the columns of the kind {kind}"


def _brief(error: BaseException) -> str:
    """The first line of an error, cut off where it is long."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def parts_in(folder: Path) -> list[Part]:
    """The parts in ``folder``, in order. What is not named like a part is passed over.

    A part that begins with the same event as a longer one was left by an interrupted rewind, and is passed over too.

    Raises:
        EventLogError: if ``folder`` is a file, or cannot be read.
    """
    parts = all_parts_in(folder)
    return [part for i, part in enumerate(parts) if i == 0 or part.first != parts[i - 1].first]


def all_parts_in(folder: Path) -> list[Part]:
    """The parts in ``folder`` by first event, those that a longer one replaces behind it.

    Raises:
        EventLogError: if ``folder`` is a file, or cannot be read.
    """
    try:
        paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except FileNotFoundError:
        if folder.is_symlink():
            raise EventLogError(f"{folder} is a link to nothing") from None
        return []
    except OSError as error:
        raise EventLogError(f"{folder} cannot be read as a folder: {error.strerror or error}") from error
    return sorted(map(Part.at, paths), key=lambda part: (part.first, -part.last))


def write_part(folder: Path, records: Sequence[dict[str, Any]]) -> Path:
    """Write a part of ``records``, which are in order, in ``folder``; returns its path.

    Raises:
        WriteError: if it cannot be written.
    """
    first, last = records[0]["seq"], records[-1]["seq"]
    with changing(folder):
        folder.mkdir(exist_ok=True)
    path = folder / f"{first:012d}-{last:012d}"
    write_folder(path, _files(records))
    return path


def _files(records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, bytes | str]]:
    """Names and contents of the files of a part, the index last.

    If a record is not as declared, there is no summary.
    """
    kinds = {}
    for kind, rows in by_kind(records).items():
        buffer = pa.BufferOutputStream()
        pq.write_table(table_of(kind, rows), buffer, compression="zstd")
        content = buffer.getvalue().to_pybytes()
        kinds[kind] = {"rows": len(rows), "sha256": sha256(content).hexdigest()}
        yield f"{kind}.parquet", content
    sources = Counter(record["source"] for record in records)
    span = {"first": records[0]["seq"], "last": records[-1]["seq"]}
    index = {"schema": EVENT_SCHEMA, **span, "kinds": kinds, "sources": dict(sources)}
    content = json.dumps(index, indent=2) + "\n"
    with suppress(StateError):
        summary = summary_text(state_of(records), sha256(content.encode()).hexdigest())
        yield SUMMARY, summary
    yield INDEX, content


def check_schema(version: object, where: Path) -> None:
    """Check the version of a log.

    Raises:
        EventLogError: if it is of another one.
    """
    if version != EVENT_SCHEMA:
        raise EventLogError(f"{where} is an event log of version {version!r:.80}, this program reads {EVENT_SCHEMA}")
