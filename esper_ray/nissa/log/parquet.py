"""Compacted events: folders of Parquet files, each there as a whole or not at all."""

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
"""Tells what a folder holds."""


class EventLogError(UserError):
    """A log that cannot be read, is of another version, or lacks something."""

    remedy = "Copy the run again from where it was written, or read it without `--evidence`."


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of Parquet files."""

    path: Path
    first: int
    """Number of its first event."""
    last: int

    @classmethod
    def at(cls, path: Path) -> "Part":
        """The part in a folder that ``write_part`` has made."""
        first, last = path.name.split("-")
        return cls(path, int(first), int(last))

    def index(self) -> dict[str, Any]:
        """Version, rows and digests of its files, counts of its sources.

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
        """Its events, in order.

        Args:
            kinds: of these only.

        Raises:
            EventLogError: if a file cannot be read.
        """
        found: list[dict[str, Any]] = []
        there: list[str] = list(self.index()["kinds"])
        for kind in there if kinds is None else [kind for kind in there if kind in kinds]:
            try:
                found += records_of(kind, pq.read_table(self.path / f"{kind}.parquet"))
            except (OSError, ValueError, KeyError) as error:
                raise EventLogError(f"{self.path / kind}.parquet cannot be read: {error}") from error
        return sorted(found, key=lambda record: int(record["seq"]))

    def damage(self) -> list[str]:
        """What is missing or not as it was written."""
        try:
            kinds = self.index()["kinds"]
        except EventLogError as error:
            return [str(error)]
        found = []
        for kind, expected in kinds.items():
            file = self.path / f"{kind}.parquet"
            digest = sha256(file.read_bytes()).hexdigest() if file.is_file() else None
            if digest != expected["sha256"]:
                found.append(f"{file} is {'missing' if digest is None else 'not what was written'}")
        return found


def parts_in(folder: Path) -> list[Part]:
    """The parts in ``folder``, in order."""
    return sorted((Part.at(path) for path in folder.glob("[0-9]*-[0-9]*")), key=lambda part: part.first)


def write_part(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Make a part of ``records``, which are in order, in ``folder``."""
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
    shutil.rmtree(path, ignore_errors=True)  # of a rewinding that was cut off
    os.rename(temporary, path)


def check_schema(found: object, where: Path) -> None:
    """See that something is of this version.

    Raises:
        EventLogError: if it is of another one.
    """
    if found != EVENT_SCHEMA:
        raise EventLogError(f"{where} is an event log of version {found!r}, this program reads {EVENT_SCHEMA}")
