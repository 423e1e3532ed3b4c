"""Validation of records against the declaration of their kind."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    NonNegativeInt,
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

_Float = Annotated[float, Strict()]
_PLAIN: Mapping[str, Any] = {
    "bool": StrictBool,
    "int": StrictInt,
    "float": _Float,
    "text": StrictStr,
    "ints": list[StrictInt],
    "floats": list[_Float],
    "texts": list[StrictStr],
    "floats by name": dict[StrictStr, _Float],
}


def _model(name: str, fields: Sequence[Field], **more: Any) -> type[BaseModel]:
    entries: dict[str, Any] = {
        f"field_{i}": (_type(field, name), Entry(alias=field.name)) for i, field in enumerate(fields)
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
    return kind | None if field.optional else kind


def _in_unit(value: Any, unit: str) -> Any:
    """Check that finite numbers are within the bounds of a unit."""
    low, high = BOUNDS[unit]
    for number in value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,):
        if math.isfinite(number) and not low - SLACK <= number <= high + SLACK:
            raise PydanticCustomError("unit", f"in the unit {unit} it lies in [{low:g}, {high:g}]")
    return value


def _kind_model(kind: Kind) -> type[BaseModel]:
    clock: dict[str, Any] = {member: (Annotated[NonNegativeInt, Strict()], ...) for member in kind.clock}
    return _model(kind.name, kind.fields, kind=(StrictStr, ...), **clock)


_MODELS = {name: _kind_model(kind) for name, kind in KINDS.items()}


def record_problem(record: Mapping[str, Any]) -> str | None:
    """The first difference of ``record`` from its declaration, ``None`` if there is none.

    Numbers that are not finite are valid; the log writes null for them and lists them.
    """
    name = record.get("kind")
    model = _MODELS.get(name) if isinstance(name, str) else None
    if model is None:
        return f"kind {name!r} is none of {', '.join(KINDS)}"
    try:
        model.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, (name, *first["loc"])))
        return f"{place}: {first['msg']}" + ("" if first["type"] == "missing" else f", got {first['input']!r}")
    return None
