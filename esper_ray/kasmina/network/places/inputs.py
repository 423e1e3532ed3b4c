"""Variants of an example input: other numbers of examples, other sizes."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

MANY_DIMENSIONS = 4
"""Number of dimensions from which on a tensor holds images."""
MAX_COLOURS = 4


def converted(inputs: Any, convert: Callable[[Any], Any]) -> Any:
    """Inputs of a model, each converted."""
    if isinstance(inputs, Mapping):
        return {name: convert(value) for name, value in inputs.items()}
    return [convert(value) for value in inputs] if isinstance(inputs, tuple | list) else convert(inputs)


def tensors_of(inputs: Any) -> list[Tensor]:
    """The tensors with dimensions among the inputs of a model."""
    if isinstance(inputs, Mapping):
        parts = list(inputs.values())
    else:
        parts = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    return [part for part in parts if isinstance(part, Tensor) and part.dim()]


def batch_size(inputs: Any) -> int | None:
    """Rows of the first tensor; ``None`` without one."""
    tensors = tensors_of(inputs)
    return tensors[0].shape[0] if tensors else None


def fewer_examples(inputs: Any, dim: int) -> tuple[Any, int, int] | None:
    """The last half of the examples, or twice the only one.

    With their number, and the index of the first of them.

    The last ones: in a causal network the first ones do not show whether examples are steps of time.

    Args:
        dim: dimension that counts examples.

    Returns:
        ``None`` if no tensor has that dimension.
    """
    sizes = [tensor.shape[dim] for tensor in tensors_of(inputs) if tensor.dim() > dim]
    if not sizes or not sizes[0]:
        return None
    count = sizes[0]
    few, start = (count // 2, count - count // 2) if count > 1 else (2, 0)

    def part(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() <= dim or value.shape[dim] != count:
            return value
        return value.narrow(dim, start, few) if count > 1 else torch.cat([value, value], dim)

    return converted(inputs, part), few, start


def other_sizes(inputs: Any) -> Iterator[Any]:
    """Inputs of other sizes than ``inputs``, the most probable ones first.

    Sides of images are changed together, lengths of all other tensors too. A network may refuse each of them.
    """
    tensors = tensors_of(inputs)
    images = [tensor for tensor in tensors if _is_image(tensor)]
    choices: list[Callable[[Tensor], list[int]]] = []
    if images:
        if all(tensor.shape[-1] <= MAX_COLOURS for tensor in images):  # colours at the end
            choices.append(lambda tensor: [tensor.dim() - 3, tensor.dim() - 2] if _is_image(tensor) else [])
        choices.append(lambda tensor: [tensor.dim() - 2, tensor.dim() - 1] if _is_image(tensor) else [])
    rest = [tensor for tensor in tensors if not _is_image(tensor) and not _is_vector(tensor)]
    for dim in (1, 2):
        length = next((tensor.shape[dim] for tensor in rest if tensor.dim() > dim), None)
        if length is not None:
            choices.append(partial(_of_length, dim=dim, length=length))
    waves = [tensor for tensor in tensors if _is_vector(tensor)]
    if not choices and waves:
        choices.append(lambda tensor: [1])
    for dimensions in choices:
        yield converted(inputs, partial(_halved, dimensions=dimensions))
        yield converted(inputs, partial(_doubled, dimensions=dimensions))


def has_square_images(inputs: Any) -> bool:
    """Whether there are images among the inputs, all with as many rows as columns."""
    images = [tensor.shape for tensor in tensors_of(inputs) if _is_image(tensor)]
    return bool(images) and all(shape[-2] == shape[-1] or shape[-3] == shape[-2] for shape in images)


def _is_image(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() >= MANY_DIMENSIONS


def _is_vector(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.is_floating_point()


def _of_length(tensor: Tensor, dim: int, length: int) -> list[int]:
    """``dim`` if it has that length.

    For tensors of two dimensions, such as masks, it is the last one."""
    if _is_image(tensor):
        return []
    own = dim if tensor.dim() > dim else tensor.dim() - 1
    return [own] if own > 0 and tensor.shape[own] == length else []


def _halved(value: Any, dimensions: Callable[[Tensor], list[int]]) -> Any:
    if isinstance(value, Tensor) and value.dim():
        for dim in dimensions(value):
            value = value.narrow(dim, 0, max(1, value.shape[dim] // 2))
    return value


def _doubled(value: Any, dimensions: Callable[[Tensor], list[int]]) -> Any:
    if isinstance(value, Tensor) and value.dim():
        for dim in dimensions(value):
            value = torch.cat([value, value], dim)
    return value
