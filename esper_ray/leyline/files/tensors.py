"""Checks of tensors: what a file can hold exactly, and what a reader expects.

They work on numpy arrays and on torch tensors. This module does not import torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

RESERVED_NAME = "__metadata__"
"""Key of the metadata in a safetensors header, which no tensor can have as its name."""
STORED_TYPES = frozenset(
    {
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn", "float8_e5m2"),
    }
)
"""Element types that safetensors holds exactly."""
TORCH_TYPES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter"})
"""Classes of torch tensors without hidden parts."""
MOST_PROBLEMS = 4
"""Number of problems that a message lists."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Expected type, shape and range of one tensor."""

    dtype: str
    """Element type without a prefix, such as ``float32``."""
    shape: tuple[int, ...]
    finite: bool = True
    """Whether all numbers must be finite."""
    least: float | None = None
    """Smallest possible number."""
    above: float | None = None
    """Number below all possible numbers."""
    most: float | None = None
    """Greatest possible magnitude."""
    whole: bool = False
    """Whether all numbers must be integers."""

    def problem(self, tensor: Any) -> str | None:
        """The difference between ``tensor`` and this specification; ``None`` without one."""
        dtype, shape = dtype_name(tensor), tuple(tensor.shape)
        if dtype != self.dtype:
            return f"has type {dtype}, it must be {self.dtype}"
        if shape != self.shape:
            return f"has shape {shape}, it must be {self.shape}"
        if self.finite:
            problem = _violation(tensor, _finite(tensor), "must be finite")
            if problem is not None:
                return problem
        if self.least is not None:
            problem = _violation(tensor, tensor >= self.least, f"must be at least {self.least:g}")
            if problem is not None:
                return problem
        if self.above is not None:
            problem = _violation(tensor, tensor > self.above, f"must be above {self.above:g}")
            if problem is not None:
                return problem
        if self.most is not None:
            problem = _violation(tensor, abs(tensor) <= self.most, f"must be at most {self.most:g} in size")
            if problem is not None:
                return problem
        return _violation(tensor, tensor == tensor.round(), "must be a whole number") if self.whole else None


def dtype_name(tensor: Any) -> str:
    """Element type of an array or tensor without a prefix, such as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def tensor_problems(tensors: Mapping[str, Any], expected: Mapping[str, TensorSpec]) -> list[str]:
    """Every difference between ``tensors`` and ``expected``, sorted by name; each names its tensor."""
    problems = []
    for name in sorted(tensors.keys() | expected.keys()):
        if name not in tensors:
            problems.append(f"tensor {name} is missing")
        elif name not in expected:
            problems.append(f"tensor {name} is not one of the {len(expected)} expected ones")
        else:
            problem = expected[name].problem(tensors[name])
            problems += [] if problem is None else [f"tensor {name} {problem}"]
    return problems


def listed(problems: list[str]) -> str:
    """The first problems as one line of text, with the number of further ones."""
    more = len(problems) - MOST_PROBLEMS
    return "; ".join(problems[:MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def unwritable(name: Any, tensor: Any) -> str | None:
    """Reason why a file cannot hold ``tensor`` exactly under ``name``; ``None`` if it can."""
    if not isinstance(name, str) or name == RESERVED_NAME:
        return "the name is reserved" if name == RESERVED_NAME else f"the name is a {type(name).__name__}, not a text"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not valid Unicode"
    if isinstance(tensor, np.ndarray):
        plain = not isinstance(tensor, np.ma.MaskedArray)
    elif _is_torch(tensor):
        plain = f"{type(tensor).__module__}.{type(tensor).__qualname__}" in TORCH_TYPES
        if plain and tensor.is_nested:
            return "it is nested; make it dense with to_padded_tensor()"
        if plain and str(tensor.layout) != "torch.strided":
            return f"it has the layout {tensor.layout}; make it dense with to_dense()"
        if plain and tensor.is_quantized:
            return f"it is quantised ({tensor.dtype}); make it plain with dequantize()"
        if plain and tensor.is_meta:
            return "it is on the device meta and has no data"
    else:
        return f"it is a {type(tensor).__name__}; only tensors can be stored"
    if not plain:
        return f"it is of the tensor subclass {type(tensor).__name__}, parts of which would be lost"
    dtype = tensor.dtype.newbyteorder("=").name if isinstance(tensor, np.ndarray) else dtype_name(tensor)
    return None if dtype in STORED_TYPES else f"it has the element type {tensor.dtype}, which safetensors lacks"


def dense(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors with the same elements, in the form that safetensors writes.

    They are in CPU memory of their own and in C order.

    Args:
        tensors: without any that :func:`unwritable` refuses.
    """
    memory: set[int] = set()
    return {name: _dense(tensor, memory) for name, tensor in tensors.items()}


def _dense(tensor: Any, memory: set[int]) -> Any:
    """
    Args:
        memory: addresses that earlier tensors use; the new one is added.
    """
    if isinstance(tensor, np.ndarray):
        return np.asarray(tensor, order="C", dtype=tensor.dtype.newbyteorder("="))
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    storage = plain.untyped_storage()
    if storage.nbytes() != plain.nbytes or storage.data_ptr() in memory:
        plain = plain.clone()
    memory.add(plain.untyped_storage().data_ptr())
    return plain


def _is_torch(tensor: Any) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" == "torch.Tensor" for kind in type(tensor).__mro__)


def _finite(tensor: Any) -> Any:
    return np.isfinite(tensor) if isinstance(tensor, np.ndarray) else tensor.isfinite()


def _violation(tensor: Any, valid: Any, rule: str) -> str | None:
    """The first element of ``tensor`` that is not ``valid``; ``None`` if all are."""
    if bool(valid.all()):
        return None
    mask = np.asarray(valid if isinstance(tensor, np.ndarray) else valid.cpu())
    place = tuple(int(index) for index in np.argwhere(~mask)[0])
    return f"has {float(tensor[place]):g}{f' at {list(place)}' if place else ''}, it {rule}"
