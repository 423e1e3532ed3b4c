"""Seeded damage of files that stays otherwise valid: other JSON values, other tensors, flipped bits."""

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch

STRANGE: tuple[Any, ...] = (None, True, -1, 0.5, math.nan, math.inf, "text", "", [], {}, [None], 10**400, -(10**20))
"""Values, one of which has the wrong type or range for any field."""


def places(tree: Any, path: tuple[Any, ...] = (), most: int = 3) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in a JSON tree, at most the first ``most`` elements of a list."""
    if path:
        yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*path, key), most)
    elif isinstance(tree, list):
        for index, value in enumerate(tree[:most]):
            yield from places(value, (*path, index), most)


def value_at(tree: Any, path: tuple[Any, ...]) -> Any:
    """The value at ``path``."""
    for key in path:
        tree = tree[key]
    return tree


def with_value(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of ``tree`` with another value at ``path``."""
    changed = deepcopy(tree)
    value_at(changed, path[:-1])[path[-1]] = value
    return changed


def without(tree: Any, path: tuple[Any, ...]) -> Any:
    """A copy of ``tree`` without what is at ``path``."""
    changed = deepcopy(tree)
    del value_at(changed, path[:-1])[path[-1]]
    return changed


def other_values(tree: Any, path: tuple[Any, ...]) -> list[Any]:
    """Strange values that differ in type or value from the one at ``path``."""
    present = value_at(tree, path)
    return [value for value in STRANGE if repr(value) != repr(present)]


def flipped(data: bytes, place: int, bit: int = 0) -> bytes:
    """``data`` with one bit flipped."""
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def mutated_tensors(tensors: dict[str, torch.Tensor], rng: np.random.Generator) -> tuple[str, dict[str, torch.Tensor]]:
    """What was done, and a copy of ``tensors`` in which one is removed, added, or has another shape or type."""
    name = str(rng.choice(sorted(tensors)))
    tensor, rest = tensors[name], {key: value for key, value in tensors.items() if key != name}
    kind = str(rng.choice(["removed", "added", "longer", "flat", "other type"]))
    if kind == "removed":
        return f"{name} removed", rest
    if kind == "added":
        return f"{name}x added", tensors | {f"{name}x": tensor.clone()}
    if kind == "longer":
        return f"{name} longer", rest | {name: torch.cat([tensor.reshape(-1), tensor.reshape(-1)[:1]])}
    if kind == "flat":
        shape = (1, *tensor.shape)
        return f"{name} of shape {shape}", rest | {name: tensor.reshape(shape)}
    return f"{name} of another type", rest | {
        name: tensor.to(torch.float64 if tensor.dtype != torch.float64 else torch.float32)
    }
