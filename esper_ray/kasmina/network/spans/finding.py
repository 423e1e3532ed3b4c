"""Search of the spans of a host: a trace of one pass shows what lies between two layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from esper_ray.kasmina.network.places.building import shared_copy
from esper_ray.kasmina.network.spans.proving import disproved
from esper_ray.kasmina.network.spans.regions import (
    ARROW,
    NEITHER,
    Region,
    SpanError,
    as_layer,
    described,
    flops_per_channel,
    parameters_per_channel,
    region_behind,
    regions,
)
from esper_ray.kasmina.network.spans.tracing import Trace, traced
from esper_ray.leyline.config.base import unknown_name_message


@dataclass(frozen=True, slots=True)
class Span:
    """Two layers of a host between which new channels can grow."""

    producer: str
    """Name of the layer whose outputs become more."""
    consumer: str
    """Name of the layer that reads them."""
    between: tuple[str, ...]
    """What lies between, in forward order."""
    channels: int
    """Present number of channels."""
    step: int
    """New channels come in multiples of this number, which is above 1 with groups."""
    parameters_per_channel: int
    flops_per_channel: int
    """Floating-point operations of one channel in a forward pass of one example; a multiply-add counts as two."""
    input_shape: tuple[int, ...]
    """Shape of what the producer reads, for one example."""
    hidden_shape: tuple[int, ...]
    """Shape of what the producer yields, for one example."""
    output_shape: tuple[int, ...]
    """Shape of what the consumer yields, for one example."""

    @property
    def place(self) -> str:
        """The place of a slot on this span: ``producer -> consumer``."""
        return f"{self.producer}{ARROW}{self.consumer}"

    @classmethod
    def of(cls, region: Region) -> "Span":
        """The public form of a region."""
        producer, consumer = region.producer, region.consumer
        assert consumer.output is not None
        return cls(
            producer.name,
            consumer.name,
            tuple(described(step.call) for step in region.steps),
            region.channels,
            region.blocks,
            parameters_per_channel(region),
            flops_per_channel(region),
            producer.reads[0].shape[1:],
            region.hidden.shape[1:],
            consumer.output.shape[1:],
        )


def spans_in(host: nn.Module, run: Callable[[nn.Module], Any]) -> tuple[list[Region], list[str]]:
    """Proven regions of ``host`` in forward order, and reasons why other layers have none.

    Args:
        run: runs a host on an example, in evaluation mode and without gradient.
    """
    possible, reasons, inside = list[Region](), list[str](), set[int]()
    for region in regions(trace_of(host, run), host):
        if not isinstance(region, Region):
            reasons.append(str(region))
        elif region.hidden.number not in inside:  # else a depthwise convolution inside a longer span
            possible.append(region)
            inside |= region.values
    failures = different_in_training(host, possible, run) | disproved(host, possible, run)
    reasons = [*dict.fromkeys(failures.values()), *reasons]  # what was nearly a span comes first
    return [region for region in possible if region.producer.name not in failures], reasons


def trace_of(host: nn.Module, run: Callable[[nn.Module], Any]) -> Trace:
    """Trace of one pass of ``host``."""
    with torch.inference_mode(False), torch.no_grad():
        return traced(partial(run, host), host)


def named_region(host: nn.Module, trace: Trace, producer: str, consumer: str) -> Region:
    """The region from ``producer`` to ``consumer``.

    Raises:
        SpanError: with the reason why there is none.
    """
    names = [name for name, _ in host.named_modules(remove_duplicate=False) if name]
    for name in (producer, consumer):
        if name not in names:
            raise SpanError(unknown_name_message("submodule", name, names))
    calls = trace.calls_of(producer)
    if not calls:
        layer = host.get_submodule(producer)
        problem = "is not called in a forward pass" if as_layer(layer) is not None else NEITHER
        raise SpanError(f"{producer} ({type(layer).__name__}) {problem}")
    region = region_behind(calls[0], trace, host)
    if region.consumer.name != consumer:
        raise SpanError(f"the channels of {producer} are read by {region.consumer.name}, not by {consumer}")
    return region


def different_in_training(host: nn.Module, found: Sequence[Region], run: Callable[[nn.Module], Any]) -> dict[str, str]:
    """Reasons why regions are others in training, by producer: another reader of the channels, other steps."""
    if not found:
        return {}
    twin = shared_copy(host)
    for module in twin.modules():
        module._buffers = {name: None if value is None else value.clone() for name, value in module._buffers.items()}
    try:
        trace = trace_of(twin.train(), run)
    except Exception as error:  # the code of a host can raise anything
        return {region.producer.name: f"a pass in training mode on the example fails: {error}" for region in found}
    reasons = {}
    for region in found:
        name = region.producer.name
        try:
            other = named_region(twin, trace, name, region.consumer.name)
        except SpanError as error:
            reasons[name] = f"in training mode, {error}"
            continue
        seen, trained = ([step.call.name for step in each.steps] for each in (region, other))
        if seen != trained:
            reasons[name] = f"in training mode other steps lie behind {name}: {', '.join(trained) or 'none'}"
    return reasons
