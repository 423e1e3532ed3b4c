"""Outputs of submodules that carry features: a tensor, or a container whose first entry is one."""

import copy
from collections.abc import Iterator, MutableMapping
from typing import Any, Literal

from torch import Tensor

Container = Literal["tensor", "tuple", "named", "list", "mapping"]
"""Kind of an output. ``named`` is a named tuple, ``mapping`` a dictionary such as a ``ModelOutput``."""


def container_of(output: Any) -> Container | None:
    """Kind of ``output`` if features are its first entry, else ``None``."""
    kind: Container | None = None
    if isinstance(output, Tensor):
        return "tensor"
    if isinstance(output, tuple):
        kind = "named" if hasattr(output, "_replace") else "tuple"
    elif isinstance(output, list):
        kind = "list"
    elif isinstance(output, MutableMapping):
        kind = "mapping"
    return kind if kind is not None and isinstance(next(_entries(output), None), Tensor) else None


def features_of(output: Any) -> Tensor | None:
    """The features that ``output`` carries; ``None`` if there are none."""
    if isinstance(output, Tensor):
        return output
    return None if container_of(output) is None else next(_entries(output))


def key_of(output: Any) -> str | None:
    """Name of the first entry of ``output``; ``None`` if entries have no names."""
    match container_of(output):
        case "named":
            return str(output._fields[0])
        case "mapping":
            return str(next(iter(output)))
        case _:
            return None


def with_features(output: Any, features: Tensor) -> Any:
    """A copy of ``output`` with ``features`` in the place of its own."""
    match container_of(output):
        case "tensor":
            return features
        case "tuple":
            return (features, *output[1:])
        case "named":
            return output._replace(**{output._fields[0]: features})
        case "list":
            return [features, *output[1:]]
        case _:
            changed = copy.copy(output)
            changed[next(iter(output))] = features
            return changed


def tensors_in(output: Any) -> list[Tensor]:
    """All tensors in ``output``, in order, through containers."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list | MutableMapping):
        return [tensor for entry in _entries(output) for tensor in tensors_in(entry)]
    return []


def description(output: Any) -> str:
    """Type of ``output``, with the types of its entries."""
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of {', '.join(type(entry).__name__ for entry in output) or 'nothing'}"
    return type(output).__name__


def _entries(output: Any) -> Iterator[Any]:
    return iter(output.values()) if isinstance(output, MutableMapping) else iter(output)
