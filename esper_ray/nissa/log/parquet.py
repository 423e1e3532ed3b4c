"""Compacted events: folders of Parquet files, each written atomically."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from esper_ray.leyline.errors import UserError
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.log.tables import by_kind, records_of, table_of

INDEX = "part.json"
"""Index of a folder: versions, rows, digests, sources."""


class EventLogError(UserError):
    """An event log that is damaged, incomplete, or of another version."""

    remedy = "Copy the run again from where it was written, or read it without `--evidence`."


@dataclass(frozen=True, slots=True)
class Part:
    """One folder of Parquet files."""

    path: Path
    first: int
    """Number of its first event."""
    last: int

    @classmethod
    def at(cls, path: Path) -> "Part":
        """The part in a folder of ``write_part``."""
        first, last = path.name.split("-")
        return cls(path, int(first), int(last))

    def index(self) -> dict[str, Any]:
        """Version, rows and digests of its files, events by source.

        Raises:
            EventLogError: if it cannot be read, or is of another version.
        """
        try:
            index: dict[str, Any] = json.loads((self.path / INDEX).read_text())
        except (OSError, ValueError) as error:
            raise EventLogError(f"{self.path / INDEX} cannot be read: {error}") from error
        check_schema(index.get("schema"), self.path)
        return index

    def records(self, kinds: Collection[str] | None = None) -> list[dict[str, Any]]:
        """Events, in order.

        Args:
            kinds: only these; ``None`` for all.

        Raises:
            EventLogError: if a file cannot be read.
        """
        records: list[dict[str, Any]] = []
        for kind in self.index()["kinds"]:
            if kinds is not None and kind not in kinds:
                continue
            try:
                records += records_of(kind, pq.read_table(self.path / f"{kind}.parquet"))
            except (OSError, ValueError, KeyError) as error:
                raise EventLogError(f"{self.path / kind}.parquet cannot be read: {error}") from error
        return sorted(records, key=lambda record: int(record["seq"]))

    def damage(self) -> list[str]:
        """Problems of its files: missing, or changed since they were written."""
        try:
            kinds = self.index()["kinds"]
        except EventLogError as error:
            return [str(error)]
        problems = []
        for kind, expected in kinds.items():
            file = self.path / f"{kind}.parquet"
            digest = sha256(file.read_bytes()).hexdigest() if file.is_file() else None
            if digest != expected["sha256"]:
                problems.append(f"{file} {'is missing' if digest is None else 'has changed since it was written'}")
        return problems


def parts_in(folder: Path) -> list[Part]:
    """The parts in ``folder``, in order."""
    return sorted((Part.at(path) for path in folder.glob("[0-9]*-[0-9]*")), key=lambda part: part.first)


def write_part(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write a part of ``records``, which are in order, in ``folder``."""
    first, last = records[0]["seq"], records[-1]["seq"]
    path = folder / f"{first:012d}-{last:012d}"
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    kinds = {}
    for kind, rows in by_kind(records).items():
        file = temporary / f"{kind}.parquet"
        pq.write_table(table_of(kind, rows), file, compression="zstd")
        kinds[kind] = {"rows": len(rows), "sha256": sha256(file.read_bytes()).hexdigest()}
    sources = Counter(record["source"] for record in records)
    index = {"schema": EVENT_SCHEMA, "first": first, "last": last, "kinds": kinds, "sources": dict(sources)}
    (temporary / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    shutil.rmtree(path, ignore_errors=True)  # left by an interrupted rewind
    os.rename(temporary, path)


def check_schema(version: object, where: Path) -> None:
    """Check the version of a log.

    Raises:
        EventLogError: if it is of another one.
    """
    if version != EVENT_SCHEMA:
        raise EventLogError(f"{where} is an event log of version {version!r}, this program reads {EVENT_SCHEMA}")
