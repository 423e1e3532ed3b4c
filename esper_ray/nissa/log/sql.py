"""SQL tables over the event log of a run.

Each kind and each list of records inside a kind has a table.

Tables and columns are generated from the catalogue. The log of a running run can be read too: events that are not
compacted yet are in the tables as well. A query can neither write nor read other files.
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
    """SQL that is invalid, or that does more than read."""

    remedy = "Write one SELECT; without a query the command lists tables and columns."


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of a query."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class EventDatabase:
    """Read-only tables over an event log, and over samples if given."""

    def __init__(self, log: EventLog, samples: SampleLog | None = None, *, evidence: bool = False) -> None:
        """
        Args:
            evidence: whether the log must be complete and undamaged.

        Raises:
            EventLogError: if a log is of another version or an index cannot be read; for ``evidence`` also if an event
                is missing or a file is damaged. Otherwise that is a warning.
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
            QueryError: if it is not one statement, does more than read, or is invalid.
        """
        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1:
                raise QueryError(f"one SELECT is expected, got {len(statements)} statements")
            if statements[0].type not in READING:
                raise QueryError(f"an event log is only read: SELECT is expected, got {statements[0].type.name}")
            result = self._connection.execute(statements[0])
            columns = tuple(column[0] for column in result.description or ())
            return Answer(columns, result.fetchall())
        except duckdb.Error as error:
            raise QueryError(str(error)) from error

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Columns by table."""
        return {name: self.ask(f'SELECT * FROM "{name}" LIMIT 0').columns for name, _ in views()}

    def close(self) -> None:
        """Close the files."""
        self._connection.close()

    def __enter__(self) -> "EventDatabase":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def views() -> Iterator[tuple[str, str]]:
    """Name and query of every table of the catalogue."""
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
    """Query with one row for each record in ``field``; the key of a mapping is the column ``name``."""
    clock = ", ".join(f'"{column}"' for column in ("seq", *kind.clock))
    if field.type == "records":
        source, columns = f'unnest("{field.name}")', [f'_e."{inner.name}"' for inner in field.fields]
    else:
        source, columns = f'unnest(map_entries("{field.name}"))', ["_e.key AS name"]
        columns += [f'_e.value."{inner.name}" AS "{inner.name}"' for inner in field.fields] or ["_e.value AS value"]
    return f'SELECT {clock}, {", ".join(columns)} FROM (SELECT {clock}, {source} AS _e FROM "{kind.name}")'


def _dataset(files: Sequence[Any], schema: pa.Schema) -> Any:
    if not files:
        return schema.empty_table()
    return ds.dataset([str(file) for file in files], schema=schema, format="parquet")
