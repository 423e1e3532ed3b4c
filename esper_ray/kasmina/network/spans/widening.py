"""Seed of a span: new channels of its producer, through copies of what is between, into its consumer.

``d = consumer'(between'(producer'(x)))``, where x is what the producer reads and d is added to what the consumer
yields. The layers have the kinds, kernels, strides and groups of the host's. The consumer's part has no bias, so that
the seed is a part of a wider producer and consumer that was cut out. A newborn seed does not change the output: its
channels come in pairs that cancel, or what the consumer reads of them has weights of zero.
"""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from esper_ray.kasmina.network.spans.regions import Region, as_layer, groups_of
from esper_ray.kasmina.network.spans.steps import Between


class Widening(nn.Module):
    """New channels of a span. Input: what the producer reads; output: a change of what the consumer yields."""

    def __init__(self, region: Region, channels: int) -> None:
        """
        Args:
            channels: number of new channels.

        Raises:
            ValueError: if it is below 1, or no multiple of the blocks of the span.
        """
        super().__init__()
        if channels < 1 or channels % region.blocks:
            need = "at least 1 channel"
            if region.blocks > 1:
                need = f"a multiple of {region.blocks} channels, because of the groups of its layers"
            raise ValueError(f"a span is widened by {need}, got {channels}")
        producer, consumer = as_layer(region.producer.module), as_layer(region.consumer.module)
        assert producer is not None
        assert consumer is not None
        self.channels, self.blocks = channels, region.blocks
        self.producer = _other_outputs(producer, channels)
        self.between = Between(region.steps, region.hidden, channels)
        self.consumer = _other_inputs(consumer, channels * region.axis.repeat)

    def forward(self, x: Tensor) -> Tensor:
        """The change of the consumer's output."""
        change: Tensor = self.consumer(self.between(self.producer(x)))
        return change

    @torch.no_grad()
    def pair(self) -> None:
        """Join the channels of each block in pairs that cancel: equal ones, read with opposite weights.

        A single one is read with weights of zero. All are, if something between is random and would treat the channels
        of a pair differently. The gradients of a pair are opposite, so training parts it at once.
        """
        if self.between.is_random:
            self.start_at_output()
            return
        size = self.channels // self.blocks
        half = size // 2
        for tensor in [*self.producer.parameters(), *self.between.parameters()]:
            channels = torch.unflatten(tensor, 0, (self.blocks, size, -1))
            channels[:, half : 2 * half] = channels[:, :half]
        read = torch.unflatten(self.consumer.weight, 1, (self.blocks // groups_of(self.consumer), size, -1))
        read[:, :, half : 2 * half] = -read[:, :, :half]
        read[:, :, 2 * half :] = 0.0

    @torch.no_grad()
    def start_at_output(self) -> None:
        """Set what the consumer reads of the new channels to zero."""
        self.consumer.weight.zero_()

    @torch.no_grad()
    def rounding(self, x: Tensor) -> float:
        """Greatest change that rounding leaves of pairs that cancel, for this input."""
        read = self.between(self.producer(x)).abs()
        size = functional_call(self.consumer, {"weight": self.consumer.weight.abs()}, (read,))
        return self.consumer.weight[0].numel() * torch.finfo(size.dtype).eps * float(size.max())


def _other_outputs(layer: nn.Linear | _ConvNd, channels: int) -> nn.Linear | _ConvNd:
    """A fresh layer like ``layer`` with ``channels`` outputs."""
    return _fresh(layer, (channels, *layer.weight.shape[1:]), channels, None)


def _other_inputs(layer: nn.Linear | _ConvNd, inputs: int) -> nn.Linear | _ConvNd:
    """A fresh layer like ``layer`` with ``inputs`` inputs and without bias."""
    per_group = inputs // (layer.groups if isinstance(layer, _ConvNd) else 1)
    return _fresh(layer, (layer.weight.shape[0], per_group, *layer.weight.shape[2:]), None, inputs)


def _fresh(
    layer: nn.Linear | _ConvNd, shape: tuple[int, ...], outputs: int | None, inputs: int | None
) -> nn.Linear | _ConvNd:
    """A copy of ``layer`` with new initial weights of ``shape``, without its hooks.

    It has no bias if ``inputs`` is given.
    """
    fresh = copy.copy(layer)
    fresh.__dict__ = {name: copy.copy(value) for name, value in layer.__dict__.items()}
    for hooks in (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
    ):
        getattr(fresh, hooks).clear()
    weight = layer.weight.detach().new_empty(shape).contiguous(memory_format=memory_format_of(layer.weight))
    fresh._parameters = {"weight": nn.Parameter(weight), "bias": None}
    if inputs is None and layer.bias is not None:
        fresh._parameters["bias"] = nn.Parameter(layer.bias.detach().new_empty(shape[0]))
    set_sizes(fresh, outputs, inputs)
    fresh.reset_parameters()
    return fresh


def set_sizes(layer: nn.Linear | _ConvNd, outputs: int | None = None, inputs: int | None = None) -> None:
    """Set the numbers of channels that ``layer`` says it has; ``None`` for no change."""
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    for side, size in (("out", outputs), ("in", inputs)):
        if size is not None:
            setattr(layer, f"{side}_{kind}", size)


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """Order in memory of the dimensions of ``tensor``: channels last, or contiguous."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last
