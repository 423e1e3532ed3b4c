"""Validation of records against the declaration of their kind, before writing and after reading."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Strict,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    create_model,
)
from pydantic import Field as Entry
from pydantic_core import PydanticCustomError

from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.shapes import BOUNDS, SLACK, Field, Kind

LARGEST = 2**63 - 1
"""Largest integer of a record; its column has 64 bits."""
_Float = Annotated[float, Strict()]
_Int = Annotated[StrictInt, Entry(ge=-LARGEST - 1, le=LARGEST)]
_Number = Annotated[StrictInt, Entry(ge=0, le=LARGEST)]
_PLAIN: Mapping[str, Any] = {
    "bool": StrictBool,
    "int": _Int,
    "float": _Float,
    "text": StrictStr,
    "ints": list[_Int],
    "floats": list[_Float],
    "texts": list[StrictStr],
    "floats by name": dict[StrictStr, _Float],
}


def _model(name: str, fields: Sequence[Field], **more: Any) -> type[BaseModel]:
    entries: dict[str, Any] = {
        f"field_{i}": (_type(field, name), Entry(None if field.added else ..., alias=field.name))
        for i, field in enumerate(fields)
    }
    model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **entries, **more)
    return model


def _type(field: Field, within: str) -> Any:
    if field.type in _PLAIN:
        kind = _PLAIN[field.type]
        if field.unit in BOUNDS:
            kind = Annotated[kind, AfterValidator(partial(_in_unit, unit=field.unit))]
    else:
        record = _model(f"{within}.{field.name}", field.fields)
        kind = list[record] if field.type == "records" else dict[StrictStr, record]  # type: ignore[valid-type]
    return kind | None if field.optional or field.undefined or field.added else kind


def _in_unit(value: Any, unit: str) -> Any:
    """Check that finite numbers are within the bounds of a unit."""
    low, high = BOUNDS[unit]
    for number in value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,):
        if math.isfinite(number) and not low - SLACK <= number <= high + SLACK:
            raise PydanticCustomError("unit", f"in the unit {unit} it lies in [{low:g}, {high:g}]")
    return value


def _kind_model(kind: Kind) -> type[BaseModel]:
    clock: dict[str, Any] = dict.fromkeys(kind.clock, (_Number, ...))
    return _model(kind.name, kind.fields, kind=(StrictStr, ...), **clock)


_MODELS = {name: _kind_model(kind) for name, kind in KINDS.items()}


class _Provenance(BaseModel):
    """What the log adds to a record."""

    model_config = ConfigDict(extra="forbid")
    run: StrictStr
    group: StrictStr
    source: StrictStr
    source_seq: _Number
    seq: _Number


def source_of(record: Mapping[str, Any]) -> str:
    """Source of a record: an environment, the learner, or the driver."""
    if record["kind"] == "ppo_update":
        return "learner"
    return f"env-{record['env']}" if "env" in record and "step" in record else "driver"


def record_problem(record: Mapping[str, Any]) -> str | None:
    """The first difference of ``record`` from its declaration, ``None`` if there is none.

    Numbers that are not finite are valid; the log writes null for them and lists them.
    """
    name = record.get("kind")
    model = _MODELS.get(name) if isinstance(name, str) else None
    if model is None:
        return f"kind {name!r:.80} is not one of {', '.join(KINDS)}"
    return _difference(model, record, f"{name}.")


def event_problem(record: Mapping[str, Any]) -> str | None:
    """First difference of a logged record from what the log writes, ``None`` without one.

    Unlike :func:`record_problem` it expects run, group, source and numbers, and null for each number that was not
    finite, which ``nonfinite`` lists.
    """
    provenance = {name: record[name] for name in _Provenance.model_fields if name in record}
    listed = record.get("nonfinite", [])
    if "nonfinite" in record and not (listed and isinstance(listed, list) and all(isinstance(p, str) for p in listed)):
        return f"nonfinite: a list of names is expected, got {listed!r:.80}"
    body: Any = {name: value for name, value in record.items() if name not in (*provenance, "nonfinite")}
    if listed:
        absent = set(listed)
        body = _with_nonfinite(body, "", absent)
        if absent:
            return f"nonfinite: {min(absent)!r:.80} is not null"
    problem = _difference(_Provenance, provenance, "") or record_problem(body)
    if problem is None and record["source"] != source_of(record):
        return f"source: {source_of(record)!r} is expected, got {record['source']!r:.80}"
    return problem


def _difference(model: type[BaseModel], record: Mapping[str, Any], prefix: str) -> str | None:
    try:
        model.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = prefix + ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" + ("" if first["type"] == "missing" else f", got {first['input']!r:.80}")
    return None


def _with_nonfinite(value: Any, path: str, absent: set[str]) -> Any:
    """``value`` with NaN for each null whose path is in ``absent``. The paths that were met are removed there."""
    if isinstance(value, Mapping):
        return {k: _with_nonfinite(v, f"{path}.{k}" if path else str(k), absent) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_nonfinite(v, f"{path}[{i}]", absent) for i, v in enumerate(value)]
    if value is None and path in absent:
        absent.discard(path)
        return math.nan
    return value
