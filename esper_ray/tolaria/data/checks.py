"""Checks of data sets that were made elsewhere: by the loaders of other packages."""

from typing import Any

import torch
from torch import Tensor

from esper_ray.tolaria.data.dataset import Dataset

CHUNK = 1024
"""Examples that are checked at once."""
MOST_CLASSES = 1 << 20
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_dataset(data: Dataset[Any]) -> None:
    """Check every example of the three splits: shapes, types, finite inputs and targets in range.

    Raises:
        ValueError: naming the split, the example, the value and the constraint.
    """
    if not isinstance(data.classes, int) or not 2 <= data.classes <= MOST_CLASSES:
        raise ValueError(f"classes must be a whole number in 2..{MOST_CLASSES}, got {data.classes!r}")
    for name, split in (("training", data.train), ("validation", data.validation), ("test", data.test)):
        if not len(split):
            raise ValueError(f"the {name} split is empty; it needs at least one example")
        for start in range(0, len(split), CHUNK):
            stop = min(start + CHUNK, len(split))
            inputs, targets = data.prepared(split, start, stop)
            place = f"{name} examples {start} to {stop - 1}"
            _check_inputs(inputs, (stop - start, *data.example_shape), place)
            _check_targets(targets, stop - start, data.classes, place)


def _check_inputs(inputs: object, shape: tuple[int, ...], place: str) -> None:
    if not isinstance(inputs, Tensor) or tuple(inputs.shape) != shape:
        raise ValueError(f"{place}: inputs must be a tensor of shape {shape}, got {_kind(inputs)}")
    if inputs.is_floating_point():
        wrong = (~inputs.isfinite()).nonzero()
        if len(wrong):
            value = inputs[tuple(wrong[0].tolist())].item()
            raise ValueError(f"{place}: inputs must be finite, got {value} in row {int(wrong[0, 0])}")
    elif inputs.dtype not in INTEGERS:
        raise ValueError(f"{place}: inputs must be real numbers, got {inputs.dtype}")


def _check_targets(targets: object, rows: int, classes: int, place: str) -> None:
    if not isinstance(targets, Tensor) or not targets.dim() or len(targets) != rows:
        raise ValueError(f"{place}: targets must be a tensor with {rows} rows, got {_kind(targets)}")
    if targets.dtype is not torch.int64:
        raise ValueError(f"{place}: targets must be int64, got {targets.dtype}")
    low, high = int(targets.min()), int(targets.max())
    if not 0 <= low <= high < classes:
        raise ValueError(f"{place}: targets must lie in 0..{classes - 1}, got {low}..{high}")


def _kind(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
