"""Search of the spans of a host, and the proof that each can be widened.

A trace of one pass shows what lies between two layers. Then every span that it shows is widened by random channels in
two ways, by a seed beside the host and by truly wider layers of a copy, and both must compute the same.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.passes.rows import same_rows
from esper_ray.kasmina.network.places.building import shared_copy
from esper_ray.kasmina.network.places.outputs import tensors_in
from esper_ray.kasmina.network.spans.folding import Layers, Transaction
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
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.leyline.config.base import unknown_name_message

PROOF_TOLERANCE = 2e-3
"""Greatest difference of a wider copy, as a share of the largest output. What mixes channels differs by far more."""


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
    failures = disproved(host, possible, run)
    reasons += [failures[region.producer.name] for region in possible if region.producer.name in failures]
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


def disproved(host: nn.Module, found: Sequence[Region], run: Callable[[nn.Module], Any]) -> dict[str, str]:
    """Reasons why widening is wrong, by producer: a host that is truly wider computes something else."""
    if not found or _is_proved(host, found, run):
        return {}
    failures = {
        region.producer.name: (
            f"{region.producer.name}{ARROW}{region.consumer.name}: a wider copy of the host computes something else "
            "than the host with a seed"
        )
        for region in found
        if not _is_proved(host, [region], run)
    }
    return failures or {region.producer.name: "all spans together compute something else" for region in found}


def _is_proved(host: nn.Module, found: Sequence[Region], run: Callable[[nn.Module], Any]) -> bool:
    with seeded_initialisation(0):
        seeds = {region.producer.name: Widening(region, region.blocks) for region in found}
    for seed, region in zip(seeds.values(), found, strict=True):
        assert region.producer.module is not None
        weight = region.producer.module._parameters["weight"]
        seed.to(weight).eval()
    twin = shared_copy(host)
    grown = copy.deepcopy(seeds)
    try:
        for region in found:
            layers = Layers(twin.get_submodule, [(other, grown[other.producer.name]) for other in found])
            seed = grown[region.producer.name]
            Transaction().widen(layers, region, seed, seed.channels)
        living, folded = _with_seeds(host, found, seeds, run), run(twin)
    except Exception:  # the code of a host can raise anything
        return False
    ones, others = tensors_in(living), tensors_in(folded)
    pairs = [(one, other) for one, other in zip(ones, others, strict=False) if one.is_floating_point()]
    return len(ones) == len(others) and bool(pairs) and all(_agree(one, other) for one, other in pairs)


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs differ by rounding, which deep networks with large random channels amplify."""
    tolerance = PROOF_TOLERANCE * one.abs().max() + 1e-9
    return same_rows(other, one) or (one.shape == other.shape and bool((one - other).abs().max() <= tolerance))


def _with_seeds(
    host: nn.Module, found: Iterable[Region], seeds: Mapping[str, Widening], run: Callable[[nn.Module], Any]
) -> Any:
    """Output of the host with seeds at full amplitude."""
    handles, sources = [], dict[str, Tensor]()

    def keep(name: str) -> Any:
        return lambda _module, args: sources.__setitem__(name, args[0])

    def add(name: str) -> Any:
        return lambda _module, _args, output: output + seeds[name](sources.pop(name))

    for region in found:
        name = region.producer.name
        handles.append(host.get_submodule(name).register_forward_pre_hook(keep(name)))
        handles.append(host.get_submodule(region.consumer.name).register_forward_hook(add(name)))
    try:
        return run(host)
    finally:
        for handle in handles:
            handle.remove()
