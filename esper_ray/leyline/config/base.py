"""What every part of the configuration tree is made of."""

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
    """Base of every part of the tree: immutable, no unknown keys, no silent conversion to text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def known_names(kind: str, names: tuple[str, ...], known: Sequence[str]) -> tuple[str, ...]:
    """``names``, all of which are among ``known``.

    Raises:
        ValueError: if one is not, naming the nearest that is, or there are none.
    """
    if not names:
        raise ValueError(f"at least one {kind} is needed, got none")
    for name in names:
        if name not in known:
            raise ValueError(unknown_name_message(kind, name, known))
    return names


def unknown_name_message(kind: str, name: str, known: Sequence[str]) -> str:
    """Message for a name that is not among ``known``, with the nearest one that is."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})"
