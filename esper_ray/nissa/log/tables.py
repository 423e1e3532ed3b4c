"""Conversion between events and Arrow tables, one table for each kind."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import pyarrow as pa

from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.shapes import Field

PROVENANCE = {
    "run": pa.string(),
    "group": pa.string(),
    "source": pa.string(),
    "source_seq": pa.int64(),
    "seq": pa.int64(),
}
"""Columns of every record beside its clock and its fields."""
_PLAIN = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "ints": pa.list_(pa.int64()),
    "floats": pa.list_(pa.float64()),
    "texts": pa.list_(pa.string()),
    "floats by name": pa.map_(pa.string(), pa.float64()),
}


@cache
def schema_of(kind: str) -> pa.Schema:
    """Columns of a kind: provenance, clock, fields, and paths of non-finite numbers.

    Raises:
        KeyError: if ``kind`` is unknown.
    """
    declared = KINDS[kind]
    columns = [*PROVENANCE.items(), *((member, pa.int64()) for member in declared.clock)]
    columns += [(field.name, _type(field)) for field in declared.fields]
    return pa.schema([*columns, ("nonfinite", pa.list_(pa.string()))])


def table_of(kind: str, records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Table of records of one kind, as the log holds them."""
    maps = [field.name for field in KINDS[kind].fields if field.type.endswith("by name")]
    rows = [{**record, **{name: list((record.get(name) or {}).items()) for name in maps}} for record in records]
    return pa.Table.from_pylist(rows, schema=schema_of(kind))


def records_of(kind: str, table: pa.Table, columns: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Records of a table; the inverse of ``table_of``. A column that the table lacks is null.

    Args:
        columns: the only ones that the records have, ``nonfinite`` among them; ``None`` for all.
    """
    rows, present = table.num_rows, dict(zip(table.column_names, table.columns, strict=True))
    values: dict[str, Sequence[Any]] = {"kind": (kind,) * rows}
    for name in schema_of(kind).names if columns is None else columns:
        values[name] = present[name].to_pylist() if name in present else (None,) * rows
    for field in KINDS[kind].fields:
        if field.type.endswith("by name") and field.name in values:
            values[field.name] = [dict(pairs or ()) for pairs in values[field.name]]
    finite = "nonfinite" not in present or present["nonfinite"].null_count == rows
    if finite:
        del values["nonfinite"]
    names = tuple(values)
    records = [dict(zip(names, row, strict=True)) for row in zip(*values.values(), strict=True)]
    for record in records if not finite else ():
        if record["nonfinite"] is None:
            del record["nonfinite"]
    return records


def _type(field: Field) -> pa.DataType:
    if field.type in _PLAIN:
        return _PLAIN[field.type]
    record = pa.struct([(inner.name, _type(inner)) for inner in field.fields])
    return pa.list_(record) if field.type == "records" else pa.map_(pa.string(), record)


def by_kind(records: Iterable[Mapping[str, Any]]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Records by kind, in their order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["kind"], []).append(record)
    return dict(groups)
