"""Strict validation of JSON trees against models, with messages of one line."""

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MOST_PROBLEMS = 3
"""Number of problems that a message lists."""
LONGEST_VALUE = 60
"""Characters of a value that a message shows."""

Whole = Annotated[int, Field(ge=0, lt=2**53)]
"""A count, which every reader of JSON holds exactly."""
M = TypeVar("M", bound=BaseModel)


class SavedRecord(BaseModel):
    """Base class of what a file holds besides tensors: exact types, finite numbers, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def validated(model: type[M], tree: Any, owner: str, error: type[Exception], *, complete: bool = False) -> M:
    """``tree`` as a ``model``. Types are exact: an integer is neither a boolean nor a text.

    Args:
        tree: a JSON tree.
        owner: name of the file or part in the message.
        complete: whether values with a default must be there too.

    Raises:
        error: with place, value and constraint of the first problems.
    """
    try:
        instance = model.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as invalid:
        raise error(f"{owner} is damaged: {described(invalid)}") from invalid
    except (ValueError, RecursionError) as invalid:
        raise error(f"{owner} is damaged: {str(invalid)[:LONGEST_VALUE]}") from invalid
    place = _difference(tree, instance.model_dump(mode="json")) if complete else None
    if place is not None:
        raise error(f"{owner} is damaged: {place.lstrip('.')}: a value is missing or of another type")
    return instance


def _difference(tree: Any, written: Any) -> str | None:
    """Place where ``tree`` differs from ``written``; ``None`` if they are equal. The order of texts is free."""
    if isinstance(tree, dict) and isinstance(written, dict):
        for key in [*tree, *(key for key in written if key not in tree)]:
            inner = "" if key not in tree or key not in written else _difference(tree[key], written[key])
            if inner is not None:
                return f".{key}{inner}"
        return None
    if isinstance(tree, list) and isinstance(written, list) and len(tree) == len(written):
        if all(isinstance(value, str) for value in tree):  # a set has no order
            return None if sorted(tree) == sorted(map(str, written)) else ""
        places = (_difference(first, second) for first, second in zip(tree, written, strict=True))
        return next((f".{index}{place}" for index, place in enumerate(places) if place is not None), None)
    same = isinstance(tree, bool) == isinstance(written, bool) and (tree == written or tree != tree != written)  # noqa: PLR0124 (NaN)
    return None if same else ""


def described(invalid: ValidationError) -> str:
    """The first problems of ``invalid`` as one line: place, constraint and value."""
    problems = invalid.errors(include_url=False)
    lines = []
    for problem in problems[:MOST_PROBLEMS]:
        place = ".".join(map(str, problem["loc"])) or "the content"
        value = "" if problem["type"] == "missing" else f" (got {_shortened(problem['input'])})"
        lines.append(f"{place}: {problem['msg'].removeprefix('Value error, ')}{value}")
    more = len(problems) - MOST_PROBLEMS
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
