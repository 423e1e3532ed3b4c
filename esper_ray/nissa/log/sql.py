"""The event log of a run as SQL tables: one for each kind, and one for each list of records inside them.

Tables and columns follow from the catalogue. A log that is being written can be read too: what has not
become Parquet yet is in the tables as well. Nothing can be written, and no other file read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from esper_ray.leyline.errors import UserError
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.shapes import Field, Kind
from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.samples import SampleLog
from esper_ray.nissa.log.tables import by_kind, schema_of, table_of

READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


class QueryError(UserError, ValueError):
    """SQL that cannot be run, or that would do more than read."""

    remedy = "Write one SELECT; without a query the command lists tables and columns."


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gives."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class EventDatabase:
    """Read-only tables over an event log, and over samples where there are any."""

    def __init__(self, log: EventLog, samples: SampleLog | None = None, *, evidence: bool = False) -> None:
        """
        Args:
            evidence: whether every event must be there, and as it was written.

        Raises:
            EventLogError: if a log is of another version or an index cannot be read; for ``evidence`` also if an event
                is missing or a file is not what was written. Otherwise that is a warning.
        """
        parts, left = log.held(evidence=evidence)
        if samples is not None:
            sampled, more = samples.held()
            parts, left = [*parts, *sampled], [*left, *more]
        lines = by_kind(left)
        held = {
            kind: [part.path / f"{kind}.parquet" for part in parts if kind in part.index()["kinds"]] for kind in KINDS
        }
        self._connection = duckdb.connect(config={"enable_external_access": "false"})
        for kind in KINDS.values():
            schema = schema_of(kind.name)
            self._connection.register(f"_files_{kind.name}", _dataset(held[kind.name], schema))
            self._connection.register(f"_lines_{kind.name}", table_of(kind.name, lines.get(kind.name, ())))
        for name, query in views():
            self._connection.execute(f'CREATE VIEW "{name}" AS {query}')
        self._connection.execute("SET lock_configuration = true")

    def ask(self, sql: str) -> Answer:
        """Run one query.

        Raises:
            QueryError: if it is not exactly one, would do more than read, or cannot be run; the message says why.
        """
        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1:
                raise QueryError(f"one SELECT is expected, got {len(statements)} statements")
            if statements[0].type not in READING:
                raise QueryError(f"an event log is only read: SELECT is expected, got {statements[0].type.name}")
            found = self._connection.execute(statements[0])
            columns = tuple(column[0] for column in found.description or ())
            return Answer(columns, found.fetchall())
        except duckdb.Error as error:
            raise QueryError(str(error)) from error

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Names of the tables, with their columns."""
        return {name: self.ask(f'SELECT * FROM "{name}" LIMIT 0').columns for name, _ in views()}

    def close(self) -> None:
        """Let go of the files."""
        self._connection.close()

    def __enter__(self) -> "EventDatabase":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def views() -> Iterator[tuple[str, str]]:
    """Names and queries of all tables, as the catalogue has them."""
    for kind in KINDS.values():
        columns = [*schema_of(kind.name).names]
        chosen = ", ".join(f'"{column}"' for column in columns)
        both = (f"SELECT {chosen} FROM _{place}_{kind.name}" for place in ("files", "lines"))
        yield kind.name, " UNION ALL ".join(both)
    for kind in KINDS.values():
        for field in kind.fields:
            if field.type in ("records", "records by name", "floats by name"):
                yield f"{kind.name}_{field.name}", _unnested(kind, field)


def _unnested(kind: Kind, field: Field) -> str:
    """One row for each record in ``field``; a mapping's key is the column ``name``."""
    clock = ", ".join(f'"{column}"' for column in ("seq", *kind.clock))
    if field.type == "records":
        inside, inner = f'unnest("{field.name}")', [f'_e."{one.name}"' for one in field.fields]
    else:
        inside, inner = f'unnest(map_entries("{field.name}"))', ["_e.key AS name"]
        inner += [f'_e.value."{one.name}" AS "{one.name}"' for one in field.fields] or ["_e.value AS value"]
    return f'SELECT {clock}, {", ".join(inner)} FROM (SELECT {clock}, {inside} AS _e FROM "{kind.name}")'


def _dataset(files: Sequence[Any], schema: pa.Schema) -> Any:
    if not files:
        return schema.empty_table()
    return ds.dataset([str(file) for file in files], schema=schema, format="parquet")
