"""SQL tables over the event log of a run.

Each kind and each list of records inside a kind has a table.

Tables and columns are generated from the catalogue. The log of a running run can be read too: events that are not
compacted yet are in the tables as well. A query can neither write nor read other files.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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

MEMORY_MIB = 1024
THREADS = 4
SETTINGS = {
    "temp_directory": "",
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
    "TimeZone": "UTC",
    "lock_configuration": "true",
}
"""Settings of DuckDB: no file, no extension, no variable of this program, no change of these settings."""
_GAP = r"(?:\s|--[^\n]*\n|/\*(?:(?!\*/|/\*).)*\*/)"
"""A blank or a comment. One within another has no form that every parser reads alike, and is not accepted."""
_EXPLAIN = re.compile(
    rf"{_GAP}*explain{_GAP}+(?:analyze{_GAP}+)?(?:\([^()]*\){_GAP}*)?(?P<explained>.*)", re.IGNORECASE | re.DOTALL
)
_AS_TEXT = {
    **dict.fromkeys(("date", "time", "time_ns", "time with time zone", "interval"), "VARCHAR"),
    **dict.fromkeys(
        ("timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamp with time zone"), "VARCHAR"
    ),
    "variant": "JSON",
}
"""Types of DuckDB that no type of Python can hold exactly, and the type that they are read as."""


class QueryError(UserError, ValueError):
    """SQL that is invalid, or that does more than read."""

    remedy = "Write one SELECT; without a query the command lists tables and columns."


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Result of a query."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class EventDatabase:
    """Read-only tables over an event log, and over samples if given."""

    def __init__(
        self,
        log: EventLog,
        samples: SampleLog | None = None,
        *,
        evidence: bool = False,
        checked: bool = True,
        memory_mib: int = MEMORY_MIB,
        threads: int = THREADS,
    ) -> None:
        """
        Args:
            evidence: whether the log must be complete and undamaged.
            checked: whether parts and lines are compared with one another first.
            memory_mib: memory that a query may use.
            threads: threads that a query may use.

        Raises:
            EventLogError: see :meth:`EventLog.read`.
        """
        self._memory_mib = memory_mib
        sources = [source for source in (log, samples) if source is not None]
        contents = [source.read(evidence=evidence) if checked else source.unchecked() for source in sources]
        lines = by_kind(event for content in contents for event in content.events)
        files: dict[str, list[Path]] = {}
        for part in (part for content in contents for part in content.parts):
            for name in part.index().kinds:
                files.setdefault(name, []).append(part.file(name))
        self._connection = duckdb.connect(config={"memory_limit": f"{memory_mib}MiB", "threads": str(threads)})
        for kind in KINDS.values():
            schema = schema_of(kind.name)
            self._connection.register(f"_files_{kind.name}", _dataset(files.get(kind.name, ()), schema))
            self._connection.register(f"_lines_{kind.name}", table_of(kind.name, lines.get(kind.name, ())))
        for name, query in views():
            self._connection.execute(f'CREATE VIEW "{name}" AS {query}')
        for name, value in SETTINGS.items():
            self._connection.execute(f"SET {name} = '{value}'")

    def ask(self, sql: str, limit: int | None = None) -> QueryResult:
        """Run one query: a SELECT, or EXPLAIN or EXPLAIN ANALYZE of one.

        Args:
            limit: number of first rows that are read; ``None`` for all.

        Raises:
            QueryError: if it is not one statement, does more than read, or is invalid.
        """
        if not sql.isascii() and sql != sql.encode(errors="replace").decode():
            raise QueryError("the query is not UTF-8")
        try:
            statement = self._one(sql)
            if statement.type == duckdb.StatementType.EXPLAIN:
                match = _EXPLAIN.fullmatch(sql)
                statement_type = None if match is None else self._one(match["explained"]).type
            else:
                statement_type = statement.type
            if statement_type != duckdb.StatementType.SELECT:
                name = "EXPLAIN of something else" if statement_type is None else statement_type.name
                raise QueryError(f"an event log is only read: SELECT is expected, got {name}")
            return self._answer(statement, limit)
        except duckdb.OutOfMemoryException as error:
            raise QueryError(f"the query needs more memory than the {self._memory_mib} MiB that it may use") from error
        except duckdb.Error as error:
            text = str(error).partition("\n\nLINE ")[0].partition("\nTraceback ")[0]
            raise QueryError(" ".join(text.split())) from error

    def _answer(self, statement: duckdb.Statement, limit: int | None) -> QueryResult:
        """Result of a statement that only reads. Times, dates and intervals are DuckDB's own text for them.

        All rows of a result are fetched: an unfinished one would keep the connection from the next question.
        """
        if statement.type == duckdb.StatementType.SELECT:
            relation = self._connection.sql(_without_end(statement.query))
            columns = [name for name, *_ in relation.description]
            casts = [_exact_type(kind) for kind in relation.types]
            texts = [f"#{i}" if cast is None else f"CAST(#{i} AS {cast})" for i, cast in enumerate(casts, 1)]
            read = relation.project(", ".join(texts)) if any(casts) else relation
            return QueryResult(tuple(columns), (read if limit is None else read.limit(limit)).fetchall())
        result = self._connection.execute(statement)
        columns = [name for name, *_ in result.description or ()]
        return QueryResult(tuple(columns), result.fetchall()[:limit])

    def _one(self, sql: str) -> duckdb.Statement:
        """The only statement in ``sql``."""
        statements = self._connection.extract_statements(sql)
        if len(statements) != 1:
            raise QueryError(f"one SELECT is expected, got {len(statements)} statements")
        return statements[0]

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
    """Query with one row for each record in ``field``. The key of a mapping is the column ``name``."""
    clock = ", ".join(f'"{column}"' for column in ("seq", *kind.clock))
    if field.type == "records":
        source, columns = f'unnest("{field.name}")', [f'_e."{inner.name}"' for inner in field.fields]
    else:
        source, columns = f'unnest(map_entries("{field.name}"))', ["_e.key AS name"]
        columns += [f'_e.value."{inner.name}" AS "{inner.name}"' for inner in field.fields] or ["_e.value AS value"]
    return f'SELECT {clock}, {", ".join(columns)} FROM (SELECT {clock}, {source} AS _e FROM "{kind.name}")'


def _without_end(query: str) -> str:
    """One statement without its semicolon and what follows it."""
    content, operator = query.encode(), duckdb.token_type.operator
    ends = [start for start, kind in duckdb.tokenize(query) if kind == operator and content[start : start + 1] == b";"]
    return content[: min(ends, default=len(content))].decode()


def _exact_type(kind: Any) -> str | None:
    """SQL name of ``kind`` with text in place of the types of ``_AS_TEXT``: ``None`` if it has none of them."""
    if kind.id in _AS_TEXT:
        return _AS_TEXT[kind.id]
    if kind.id not in ("list", "array", "struct", "tuple", "map", "union"):
        return None
    children = kind.children[1:] if kind.id == "union" else kind.children  # the first one is the tag
    inner = {i: _exact_type(child) for i, (_, child) in enumerate(children) if not isinstance(child, int)}
    if not any(inner.values()):
        return None
    names = ['"' + name.replace('"', '""') + '" ' if kind.id in ("struct", "union") else "" for name, _ in children]
    types = [f"{names[i]}{cast or children[i][1]}" for i, cast in inner.items()]
    if kind.id in ("list", "array"):
        return f"{types[0]}[{children[1][1] if kind.id == 'array' else ''}]"
    return f"{kind.id.upper()}({', '.join(types)})"


def _dataset(files: Sequence[Path], schema: pa.Schema) -> Any:
    if not files:
        return schema.empty_table()
    paths = [str(file.absolute()) for file in files]
    return ds.dataset(paths, schema=schema, format="parquet", partitioning=None)
