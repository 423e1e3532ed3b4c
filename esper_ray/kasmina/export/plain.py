"""Conversion of a grown network to a plain torch module with its committed seeds.

Each submodule that carries a committed seed is replaced by a small graph, the submodule and what
follows it; modules of this package dissolve into the torch modules that they are made of. Modules of
the user stay what they are.
"""

import copy
import inspect
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import Argument

from esper_ray.kasmina.network.attachment import SlotHook, evaluation_mode
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.operators import blend
from esper_ray.kasmina.network.slotted import SlottedNetwork

PACKAGE = __name__.split(".", maxsplit=1)[0]
REPRESENTABLE = (type(None), bool, int, float, str)


class _Fossil(nn.Module):
    """A committed seed with its blend at full amplitude."""

    def __init__(self, cell: SeedCell) -> None:
        super().__init__()
        self.seed, self.gate, self.operator = cell.seed, cell.gate, cell.operator

    def forward(self, h: Tensor) -> Tensor:
        assert self.seed is not None
        return blend(self.operator, h, self.seed(h), 1.0, self.gate).type_as(h)


class _Tracer(fx.Tracer):
    """Tracer that enters modules of this package only."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not _is_internal(m)


def plain_module(model: SlottedNetwork) -> nn.Module:
    """Copy of the host with its committed seeds, same mode and device.

    Raises:
        ValueError: if a submodule with a committed seed takes arguments that cannot be passed on.
    """
    host = _unhooked(model.host)
    fossils = [slot for slot in model.slot_ids if slot in model.committed_slots]
    names = {slot: model.attachments[slot].module for slot in fossils}
    for slot in sorted(fossils, key=lambda slot: names[slot].count("."), reverse=True):  # the innermost first
        _replace(host, host.get_submodule(names[slot]), _grown(slot, host.get_submodule(names[slot]), model.cell(slot)))
    training = host.training
    with evaluation_mode(host):
        plain = _unwrapped(host, {})
    for module in plain.modules():
        if isinstance(module, fx.GraphModule) or type(module) is nn.Module:  # made by tracing
            module.training = training
    return plain


def _unhooked(host: nn.Module) -> nn.Module:
    plain = copy.deepcopy(host)
    for module in plain.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, SlotHook):
                del module._forward_hooks[key]
    return plain


def _grown(slot: str, base: nn.Module, cell: SeedCell) -> nn.Module:
    """``base`` followed by the committed seed of ``cell``, with the signature of ``base``."""
    graph = fx.Graph()
    positional: list[Argument] = []
    named: dict[str, Argument] = {}
    for name, parameter in inspect.signature(base.forward).parameters.items():
        empty = parameter.default is inspect.Parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not (
            empty or isinstance(parameter.default, REPRESENTABLE)
        ):
            raise ValueError(f"slot {slot}: {type(base).__name__}.forward takes {parameter}, which cannot be passed on")
        default = inspect.Signature.empty if empty else parameter.default
        node = graph.placeholder(name, default_value=default)
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = node
        else:
            positional.append(node)
    output = graph.call_module("base", tuple(positional), named)
    graph.output(graph.call_module("fossil", (output,)))
    return fx.GraphModule({"base": base, "fossil": _traced(_Fossil(copy.deepcopy(cell)))}, graph, "Grown")


def _unwrapped(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """``module`` without modules of this package. Shared submodules stay shared."""
    if module not in done:
        done[module] = plain = _traced(module) if _is_internal(module) else module
        for name, child in plain._modules.items():
            plain._modules[name] = None if child is None else _unwrapped(child, done)
    return done[module]


def _traced(module: nn.Module) -> nn.Module:
    name = type(module).__name__.lstrip("_")
    graph = _Tracer().trace(module)
    graph._tracer_cls = None  # it would be pickled along
    return fx.GraphModule(module, graph, name)


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace ``old`` by ``new`` wherever it is registered below ``root``."""
    for parent in list(root.modules()):
        for name, child in list(parent._modules.items()):
            if child is old and parent is not new:
                parent._modules[name] = new


def _is_internal(module: Any) -> bool:
    return type(module).__module__.split(".", maxsplit=1)[0] == PACKAGE
