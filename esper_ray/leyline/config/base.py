"""Base class, number types and name checks of the configuration tree.

Every number is strict and has both bounds: ``true`` and ``"5"`` are not numbers, 5.0 is not an integer; an integer is a
valid float. A test walks the schema and fails for a number without both bounds.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from esper_ray.leyline.errors import shortened
from esper_ray.leyline.names import NAME_PATTERN, checked_name

Integer = Annotated[int, Field(strict=True)]
"""Integer; a field adds its bounds."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""Finite number; a field adds its bounds."""
Switch = Annotated[bool, Field(strict=True)]
"""``true`` or ``false``; 1, 0 and "yes" are neither."""

Weight = Annotated[Number, Field(ge=0, le=1e6)]
"""Factor, bonus or price in units of reward, or another non-negative scale."""
PositiveWeight = Annotated[Number, Field(gt=0, le=1e6)]
Penalty = Annotated[Number, Field(ge=-1e6, le=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Share = Annotated[Number, Field(gt=0, le=1)]
"""Fraction above 0."""
Points = Annotated[Number, Field(ge=0, le=100)]
"""Percentage points."""
LearningRate = Annotated[Number, Field(gt=0, le=100)]
ClippingNorm = Annotated[Number, Field(gt=0, le=1e9)]
"""Largest L2 norm of a gradient; a large one never clips."""
Seconds = Annotated[Number, Field(ge=0, le=604_800)]
"""Seconds, a week at most."""
Duration = Annotated[Integer, Field(ge=0, le=100_000)]
"""Number of epochs or steps, which may be 0."""
Period = Annotated[Integer, Field(ge=1, le=100_000)]
"""Number of epochs or steps between events, or in a window."""
ExampleCount = Annotated[Integer, Field(ge=0, le=10_000_000)]
"""Number of examples of a data set; 0 often means all."""
Rounds = Annotated[Integer, Field(ge=0, le=1_000_000)]
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]
Name = Annotated[str, AfterValidator(checked_name), Field(json_schema_extra={"pattern": f"^{NAME_PATTERN}$"})]
"""Label of a run or sweep, and part of the name of its folder."""


def _check_folder(path: Path) -> Path:
    if not str(path).isprintable() or len(str(path)) > 4096:
        raise ValueError("a path has at most 4,096 printable characters")
    return path


Folder = Annotated[Path, AfterValidator(_check_folder)]


def _check_integer(value: Any) -> Any:
    """``value``, if it is not a float or boolean.

    The choices of a literal are compared by ``==``, which does not tell 1 from 1.0 and ``true``.
    """
    if isinstance(value, bool | float):
        raise ValueError("Input should be an integer")
    return value


StrictChoice = BeforeValidator(_check_integer)
"""Mark of a literal of integers, for which 1.0 and ``true`` are no 1."""
Version = Annotated[Literal[1], StrictChoice]


def _check_finite(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """
    Raises:
        ValueError: naming a number in the options that is not finite.
    """
    values: list[tuple[str, JsonValue]] = list(options.items())
    for key, value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}, it must be finite")
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        values += [(f"{key}.{part}", item) for part, item in inner]
    return options


PartOptions = Annotated[dict[str, JsonValue], AfterValidator(_check_finite)]
"""PartOptions of a part of another package, which validates them itself."""


_KINDS_OF_VALUES = {
    "tuple_type": "it must be a list, such as [a, b]",
    "model_type": "it must be a section, with keys of its own",
    "model_attributes_type": "it must be a section, with keys of its own",
}
"""What a value must be that pydantic names by a type of Python, by the type of the problem."""


class Section(BaseModel):
    """Base class of the sections: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_names(kind: str, names: tuple[str, ...], choices: Sequence[str]) -> tuple[str, ...]:
    """``names``, all of which are among ``choices``.

    Raises:
        ValueError: if there are no names, one is listed twice, or one is not among ``choices``; the message has the
            nearest choice.
    """
    if not names:
        raise ValueError(f"at least one {kind} is needed, got none")
    for index, name in enumerate(names):
        if name not in choices:
            raise ValueError(unknown_name_message(kind, name, choices))
        if name in names[:index]:
            raise ValueError(f"{kind} {name!r} is listed twice")
    return names


def unknown_name_message(kind: str, name: str, choices: Sequence[str]) -> str:
    """Message for a name that is not among ``choices``, with the nearest choice."""
    from difflib import get_close_matches

    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {shortened(name)}{hint} (known: {', '.join(choices)})"


def with_value(message: str, value: Any) -> str:
    """``message`` with the refused value, unless it quotes the value already."""
    text = shortened(value)
    return message if isinstance(value, str) and text in message else f"{message} (got {text})"


def problem_message(problem: Mapping[str, Any], path: Sequence[str] = ()) -> str:
    """What is wrong with the value of a key, in words, from what pydantic says.

    Args:
        path: names of the key and of the sections around it; texts that are not a choice are named by them.
    """
    if problem["type"] == "literal_error" and isinstance(problem["input"], str) and path:
        kind = " ".join(key for key in path if not key.isdecimal()).replace("_", " ")
        return unknown_name_message(kind, problem["input"], re.findall(r"'([^']+)'", problem["ctx"]["expected"]))
    return _KINDS_OF_VALUES.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
