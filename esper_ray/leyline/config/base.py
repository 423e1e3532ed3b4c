"""Base class, number types and name checks of the configuration tree."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
NonPositive = Annotated[float, Field(le=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base class of the sections: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_names(kind: str, names: tuple[str, ...], choices: Sequence[str]) -> tuple[str, ...]:
    """``names``, all of which are among ``choices``.

    Raises:
        ValueError: if there are no names, or one is not among ``choices``; the message has the nearest choice.
    """
    if not names:
        raise ValueError(f"at least one {kind} is needed, got none")
    for name in names:
        if name not in choices:
            raise ValueError(unknown_name_message(kind, name, choices))
    return names


def unknown_name_message(kind: str, name: str, choices: Sequence[str]) -> str:
    """Message for a name that is not among ``choices``, with the nearest choice."""
    from difflib import get_close_matches

    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(choices)})"
