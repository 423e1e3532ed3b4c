"""Batches of a user's data: inputs and targets as tensors, tuples or mappings."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset

LABELS = "labels"
"""Name of the targets in a mapping."""
COLLATED = 64
"""Examples per batch of a data set without a loader."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Arguments of a model for some examples, and their targets."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: Any
    """Targets as the loss takes them; all of a mapping without ``labels``."""
    rows: int
    """Number of examples."""

    def run(self, model: nn.Module) -> Any:
        """Output of ``model``."""
        return model(*self.args, **self.kwargs)

    def part(self, start: int, stop: int) -> "Batch":
        """The examples ``start`` to ``stop``."""
        args, kwargs, targets = self.converted(lambda tensor: tensor[start:stop])
        return Batch(args, kwargs, targets, min(stop, self.rows) - start)

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on ``device``."""
        values = (self.args, dict(self.kwargs), self.targets)
        args, kwargs, targets = tree_map(lambda v: v.to(device) if isinstance(v, Tensor) else v, values)
        return Batch(args, kwargs, targets, self.rows)

    def converted(self, convert: Callable[[Tensor], Tensor]) -> Any:
        """Arguments, named arguments and targets, with every tensor of one row per example converted."""
        return tree_map(
            lambda v: convert(v) if isinstance(v, Tensor) and v.dim() and len(v) == self.rows else v,
            (self.args, dict(self.kwargs), self.targets),
        )

    @property
    def inputs(self) -> list[Tensor]:
        """Tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    @property
    def shapes(self) -> str:
        """Shapes of the inputs in words, for messages."""
        named = [f"{name} {_shape(value)}" for name, value in self.kwargs.items()]
        return ", ".join([*map(_shape, self.args), *named])


def as_batch(data: Any, model: nn.Module) -> Batch:
    """Arguments of ``model`` and targets from a batch as loaders yield it.

    A pair is (inputs, targets), with inputs as a tensor, a tuple of positional or a mapping of named arguments. A
    mapping is named arguments; its entry ``labels``, if there is one, is the target, and is an argument only if
    ``forward`` takes it.

    Raises:
        ValueError: if it is anything else, or inputs and targets differ in number.
    """
    if isinstance(data, Mapping):
        kwargs, targets = dict(data), data.get(LABELS, data)
        if LABELS in kwargs and LABELS not in inspect.signature(model.forward).parameters:
            del kwargs[LABELS]
        return _checked((), kwargs, targets)
    if isinstance(data, tuple | list) and len(data) == 2:
        inputs, targets = data
        if isinstance(inputs, Mapping):
            return _checked((), dict(inputs), targets)
        return _checked(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}, targets)
    size = f" of {len(data)}" if isinstance(data, tuple | list) else ""
    raise ValueError(
        f"a batch is a pair (inputs, targets) or a mapping of named inputs, got a {type(data).__name__}{size}; "
        "several inputs are a tuple: ((first, second), targets)"
    )


def _checked(args: tuple[Any, ...], kwargs: dict[str, Any], targets: Any) -> Batch:
    inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()]
    if not inputs:
        raise ValueError(f"a batch needs at least one tensor of inputs, got {args or kwargs!r:.80}")
    rows = len(inputs[0])
    for leaf in tree_leaves(targets):
        if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) != rows and not isinstance(targets, Mapping):
            raise ValueError(
                f"a batch has {rows} inputs and {len(leaf)} targets; there must be a target for each input"
            )
    return Batch(args, kwargs, targets, rows)


def batches_of(data: Any, model: nn.Module) -> Iterator[Batch]:
    """Batches of held-out data.

    Data are a pair of tensors, a mapping, a Dataset, or an iterable of batches such as a DataLoader.

    Raises:
        ValueError: if ``data`` is anything else.
    """
    if isinstance(data, Mapping) or _is_pair(data):
        yield as_batch(data, model)
        return
    loader: Iterable[Any] = DataLoader(data, batch_size=COLLATED) if isinstance(data, Dataset) else data
    if not isinstance(loader, Iterable) or isinstance(loader, Tensor | str):
        raise ValueError(
            f"held-out data are a pair (inputs, targets), a Dataset or a DataLoader, got a {type(data).__name__}"
        )
    for batch in loader:
        yield as_batch(batch, model)


def joined(batches: Iterable[Batch]) -> list[Batch]:
    """The batches, with neighbours of equal shapes concatenated."""
    groups: list[list[Batch]] = []
    for batch in batches:
        if groups and _kind(groups[-1][0]) == _kind(batch) is not None:
            groups[-1].append(batch)
        else:
            groups.append([batch])
    return [_concatenated(group) for group in groups]


def _is_pair(data: Any) -> bool:
    """Whether ``data`` is one pair of inputs and targets, not a sequence of batches."""
    return isinstance(data, tuple) and len(data) == 2 and any(isinstance(part, Tensor) for part in data)


def _kind(batch: Batch) -> Any:
    """Key of batches that can be concatenated.

    ``None`` if some value does not have a row for each example.
    """
    leaves, structure = tree_flatten((batch.args, dict(batch.kwargs), batch.targets))
    if not all(isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == batch.rows for leaf in leaves):
        return None
    return str(structure), [(leaf.shape[1:], leaf.dtype) for leaf in leaves]


def _concatenated(group: list[Batch]) -> Batch:
    if len(group) == 1:
        return group[0]
    values = [(batch.args, dict(batch.kwargs), batch.targets) for batch in group]
    args, kwargs, targets = tree_map(lambda *parts: torch.cat(parts), *values)
    return Batch(args, kwargs, targets, sum(batch.rows for batch in group))


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
