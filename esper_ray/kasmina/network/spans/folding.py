"""Folding of a committed seed of a span into truly wider layers of the host.

Channels lie in ``blocks`` equal blocks, which the groups of the layers do not divide further. New channels enter at the
end of each block, so that every group keeps its own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from esper_ray.kasmina.network.spans.regions import Region, as_layer, groups_of, layer_inputs, width_of
from esper_ray.kasmina.network.spans.widening import Widening, memory_format_of, set_sizes

STEP_SIZES = ("num_features", "num_parameters", "num_channels", "num_groups")
"""Attributes of layers that count channels."""
SIZES = frozenset((*STEP_SIZES, "in_channels", "out_channels", "groups", "in_features", "out_features"))


@dataclass(frozen=True, slots=True)
class Replacement:
    """A tensor of a layer that becomes wider, or narrower."""

    layer: nn.Module
    name: str
    other: Tensor | None
    """The seed's tensor of the new channels; ``None`` for zeros."""
    dim: int
    blocks: int
    count: int
    """Number of new entries along ``dim``, negative for fewer."""

    @property
    def tensor(self) -> Tensor:
        """The tensor before or after."""
        tensor = self.layer._parameters.get(self.name)
        present = self.layer._buffers.get(self.name) if tensor is None else tensor
        assert present is not None
        return present

    def joined(self, old: Tensor, new: Tensor | None) -> Tensor:
        """``old`` with ``new``, or zeros, at the end of each block."""
        if new is None:
            new = self.filled(old, 0.0)
        return interleaved(old, new.to(old), self.dim, self.blocks)

    def filled(self, old: Tensor, value: float) -> Tensor:
        """New entries of ``old``, all with ``value``."""
        return self._full(old, self.count, value)

    def new_tensor(self, values: bool) -> Tensor:
        """The tensor afterwards; without ``values`` all zeros."""
        old = self.tensor
        if values:
            return self.joined(old, self.other)
        return self._full(old, old.shape[self.dim] + self.count, 0.0)

    def _full(self, old: Tensor, size: int, value: float) -> Tensor:
        """A tensor like ``old`` with ``size`` entries along ``dim``, all with ``value``."""
        shape = list(old.shape)
        shape[self.dim] = size
        return old.new_full(shape, value).contiguous(memory_format=memory_format_of(old))


def interleaved(old: Tensor, new: Tensor, dim: int, blocks: int) -> Tensor:
    """The entries of ``old`` and ``new`` along ``dim``, block by block."""
    if blocks == 1:
        return torch.cat([old, new], dim)
    parts = [part for pair in zip(old.chunk(blocks, dim), new.chunk(blocks, dim), strict=True) for part in pair]
    return torch.cat(parts, dim)


def wider_outputs(
    layer: nn.Linear | _ConvNd, other: nn.Linear | _ConvNd | None, channels: int, blocks: int
) -> Iterator[Replacement]:
    """Replacements that give ``layer`` more outputs: those of ``other``, or zeros."""
    for name, parameter in layer._parameters.items():
        if parameter is not None:
            yield Replacement(layer, name, None if other is None else other._parameters[name], 0, blocks, channels)


def wider_inputs(
    layer: nn.Linear | _ConvNd, other: nn.Linear | _ConvNd | None, inputs: int, blocks: int
) -> Iterator[Replacement]:
    """Replacements that let ``layer`` read more channels, with the weights of ``other``, or zeros."""
    groups = groups_of(layer)
    new = None if other is None else other.weight
    yield Replacement(layer, "weight", new, 1, blocks // groups, inputs // groups)


def wider_step(layer: nn.Module, other: nn.Module | None, channels: int, blocks: int) -> Iterator[Replacement]:
    """Replacements that give a layer between producer and consumer the channels of ``other``."""
    others = {} if other is None else {**other._parameters, **other._buffers}
    for name, tensor in {**layer._parameters, **layer._buffers}.items():
        if tensor is not None and tensor.dim():
            yield Replacement(layer, name, others.get(name), 0, blocks, channels)


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers of a host, and the seeds on its spans."""

    host: Callable[[str], nn.Module]
    """The layer of a name."""
    seeds: Sequence[tuple[Region, Widening]]
    """Living seeds, each with its region."""

    def layer(self, name: str) -> nn.Linear | _ConvNd:
        """The linear layer or convolution of a name."""
        layer = as_layer(self.host(name))
        assert layer is not None
        return layer

    def steps(self, region: Region, seed: Widening | None) -> Iterator[tuple[nn.Module, nn.Module | None, int]]:
        """Layers with channels between producer and consumer: of the host, of the seed, entries per channel."""
        others = iter(()) if seed is None else iter(seed.between.layers.values())
        for step in region.steps:
            if step.call.module is not None:
                yield self.host(step.call.name), next(others, None), step.read_repeat

    def readers(self, region: Region) -> Iterator[Widening]:
        """Seeds whose producer reads what the consumer of ``region`` reads: they get more inputs."""
        return (seed for other, seed in self.seeds if other.producer.name == region.consumer.name)

    def writers(self, region: Region) -> Iterator[Widening]:
        """Seeds that add to what the producer of ``region`` yields: they get more outputs."""
        return (seed for other, seed in self.seeds if other.consumer.name == region.producer.name)


def replacements(layers: Layers, region: Region, seed: Widening | None, channels: int) -> list[Replacement]:
    """What becomes wider when ``seed`` becomes part of its producer, steps and consumer.

    Seeds on the spans before and after get zeros for what is new to them, so that they compute what they did.

    Args:
        seed: the seed; ``None`` if only the sizes change.
        channels: number of new channels, negative for fewer.
    """
    blocks, inputs = region.blocks, channels * region.axis.repeat
    producer, consumer = layers.layer(region.producer.name), layers.layer(region.consumer.name)
    changes = [*wider_outputs(producer, None if seed is None else seed.producer, channels, blocks)]
    for layer, other, repeat in layers.steps(region, seed):
        changes += wider_step(layer, other, channels * repeat, blocks)
    changes += wider_inputs(consumer, None if seed is None else seed.consumer, inputs, blocks)
    for reader in layers.readers(region):
        changes += wider_inputs(reader.producer, None, inputs, blocks)
    for writer in layers.writers(region):
        changes += wider_outputs(writer.consumer, None, channels, blocks)
    return changes


class Transaction:
    """Wider, or narrower, tensors of some layers, put in place together and taken back together."""

    def __init__(self) -> None:
        self.replaced: dict[nn.Parameter, tuple[nn.Parameter, Replacement]] = {}
        """By old parameter: the new one, and what has changed."""
        self._tensors: list[tuple[Replacement, Tensor]] = []
        self._sizes: list[tuple[nn.Module, dict[str, Any]]] = []

    def widen(self, layers: Layers, region: Region, seed: Widening | None, channels: int) -> None:
        """Give a span ``channels`` more channels: those of ``seed``, or such whose values are loaded later."""
        self.replace(replacements(layers, region, seed, channels), values=seed is not None)
        self.resize(layers, region, channels)

    @torch.no_grad()
    def replace(self, changes: Iterable[Replacement], *, values: bool = True) -> None:
        """Put the tensors of ``changes`` into the layers.

        Args:
            values: keep what is there and add what is new; else the values are zeros, which are loaded later.
        """
        made = [(change, change.tensor, change.new_tensor(values)) for change in changes]  # all before the first
        for change, old, tensor in made:
            self._tensors.append((change, old))
            if isinstance(old, nn.Parameter):
                parameter = nn.Parameter(tensor, requires_grad=old.requires_grad)
                change.layer._parameters[change.name] = parameter
                self.replaced[old] = parameter, change
            else:
                change.layer._buffers[change.name] = tensor

    def resize(self, layers: Layers, region: Region, channels: int) -> None:
        """Count ``channels`` more channels of ``region`` in the attributes of all layers that change.

        A negative number is for fewer.
        """
        inputs = channels * region.axis.repeat
        for layer, outputs, more in (
            (layers.layer(region.producer.name), channels, 0),
            (layers.layer(region.consumer.name), 0, inputs),
            *((reader.producer, 0, inputs) for reader in layers.readers(region)),
            *((writer.consumer, channels, 0) for writer in layers.writers(region)),
        ):
            self._remember(layer)
            set_sizes(layer, width_of(layer) + outputs, layer_inputs(layer) + more)
        for step in region.steps:
            if step.call.module is not None:
                self._remember(layers.host(step.call.name))
                _resize_step(layers.host(step.call.name), channels * step.read_repeat)

    def undo(self) -> None:
        """Put the old tensors back."""
        for change, old in reversed(self._tensors):
            if isinstance(old, nn.Parameter):
                change.layer._parameters[change.name] = old
            else:
                change.layer._buffers[change.name] = old
        for layer, sizes in reversed(self._sizes):
            layer.__dict__.update(sizes)

    def _remember(self, layer: nn.Module) -> None:
        self._sizes.append((layer, {name: value for name, value in vars(layer).items() if name in SIZES}))


def _resize_step(layer: nn.Module, channels: int) -> None:
    """Count ``channels`` more channels in the attributes of a layer between producer and consumer."""
    names = STEP_SIZES if not isinstance(layer, _ConvNd) else ("in_channels", "out_channels", "groups")
    for name in names:
        if hasattr(layer, name):
            setattr(layer, name, getattr(layer, name) + channels)
