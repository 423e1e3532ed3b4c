"""The layers of a host in the order of its forward pass, for drawings."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from esper_ray.kasmina.modules import count_parameters
from esper_ray.kasmina.network.attachment import call, evaluation_mode
from esper_ray.kasmina.network.slotted import SlottedNetwork


@dataclass(frozen=True, slots=True)
class HostLayer:
    """A module without children, or one that carries a slot."""

    name: str
    """Qualified name in the host; empty for the host itself."""
    module: str
    """Name of its class."""
    shape: tuple[int, ...]
    """Shape of its output for one example; empty if the output is not a tensor."""
    parameters: int
    """Structural parameters; 0 for a module whose children are layers of their own."""
    slot: str | None


def host_layers(model: SlottedNetwork, example_input: Any) -> list[HostLayer]:
    """The layers in the order of their first calls in one evaluation pass.

    Layers that the pass never calls come last.

    Args:
        example_input: as for :meth:`SlottedNetwork.wrap`, batch first.
    """
    slots = {attachment.module: slot for slot, attachment in model.attachments.items()}
    layers = {
        name: module
        for name, module in model.host.named_modules()
        if name in slots or not any(True for _ in module.children())
    }
    shapes: dict[str, tuple[int, ...]] = {}

    def watch(name: str) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            shapes.setdefault(name, _shape(output))

        return note

    handles = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    try:
        with torch.no_grad(), evaluation_mode(model):
            call(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    order = [*shapes, *(name for name in layers if name not in shapes)]
    return [_layer(name, layers[name], shapes.get(name, ()), slots.get(name)) for name in order]


def _layer(name: str, module: nn.Module, shape: tuple[int, ...], slot: str | None) -> HostLayer:
    has_children = any(True for _ in module.children())
    parameters = 0 if has_children else count_parameters(module)
    return HostLayer(name, type(module).__name__, shape, parameters, slot)


def _shape(output: Any) -> tuple[int, ...]:
    return tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else ()
