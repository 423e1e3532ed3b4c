"""Conversion of a grown network to a plain torch module with its committed seeds.

Submodules of the user keep their class, their attributes and the names of their tensors. A committed seed becomes a
small graph behind its submodule, in the way that was tried when the slot was attached. Modules of this package
dissolve into the torch modules that they are made of.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from esper_ray.kasmina.network.attachment import Attachment, SlotHook, evaluation_mode
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.operators import blend
from esper_ray.kasmina.network.places.building import build_in, copied
from esper_ray.kasmina.network.places.caches import (
    CACHE_ARGUMENTS,
    CacheGuard,
    cell_mixes_tokens,
    refusal,
    takes_cache,
)
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.kasmina.network.spans.cell import SpanCell, SpanHook
from esper_ray.kasmina.network.spans.folding import Layers, Transaction
from esper_ray.kasmina.network.spans.widening import Widening

PACKAGE = __name__.split(".", maxsplit=1)[0]


class _Fossil(nn.Module):
    """A committed seed with its blend at full amplitude."""

    def __init__(self, cell: SeedCell, at: Attachment) -> None:
        super().__init__()
        self.seed, self.gate, self.operator, self.layout = cell.seed, cell.gate, cell.operator, at.layout

    def forward(self, h: Tensor) -> Tensor:
        assert self.seed is not None
        features = self.layout.canonical(h)
        return self.layout.restored(blend(self.operator, features, self.seed(features), 1.0, self.gate)).type_as(h)


class _FossilHook(_Fossil):
    """A committed seed as the forward hook of a submodule of the user."""

    def __init__(self, cell: SeedCell, at: Attachment) -> None:
        super().__init__(cell, at)
        self.container, self.key = at.container, at.key

    def forward(self, module: Any, args: Any, output: Any) -> Any:  # type: ignore[override]  # torch calls hooks so
        match self.container:
            case "tensor":
                return super().forward(output)
            case "tuple":
                return (super().forward(output[0]),) + output[1:]  # noqa: RUF005  # a traced tuple has no length
            case "list":
                return [super().forward(output[0])] + output[1:]  # noqa: RUF005
            case "named":
                return output._replace(**{str(self.key): super().forward(output[0])})
            case _:
                output.__setitem__(self.key, super().forward(output[self.key]))  # traced calls have no assignment
                return output


class _InlineHook:
    """Forward hook of a module of this package, which is dissolved by tracing."""

    def __init__(self, fossil: nn.Module) -> None:
        self.fossil = fossil

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        return self.fossil(output)


class _NoCache(nn.Module):
    """Forward pre-hook of a decoder that refuses caches of earlier tokens."""

    def __init__(self, slots: str) -> None:
        super().__init__()
        self.message = refusal(slots)

    def forward(self, module: Any, args: Any, kwargs: Any) -> None:
        for name in CACHE_ARGUMENTS:
            torch._assert(kwargs.get(name) == None, self.message)  # noqa: E711  # a traced comparison


class _Tracer(fx.Tracer):
    """Tracer that enters modules of this package only."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not _is_internal(m)


def plain_module(model: SlottedNetwork) -> nn.Module:
    """Copy of the host with its committed seeds, same mode and device.

    Seeds that live but are not committed are left out, with a warning.

    Raises:
        ValueError: if the host cannot be copied.
    """
    _warn_about_live_seeds(model)
    cells = {id(model.cell(slot)): slot for slot in model.slot_ids}
    host = copied(model.host, {id(model.cell(slot)): model.cell(slot) for slot in model.slot_ids})
    places: list[tuple[nn.Module, int, str]] = []
    for module in list(host.modules()):  # outer modules first
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, SlotHook):
                places.append((module, key, cells[id(hook.cell)]))
        for key, guard in list(module._forward_pre_hooks.items()):
            if isinstance(guard, CacheGuard | SpanHook):
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
    committed = model.committed_slots
    _fold_spans(host, {slot: cell for slot, cell in _span_cells(model).items() if slot in committed})
    for base, key, slot in reversed(places):
        built = model.cell(slot) if slot in committed and slot not in _span_cells(model) else None
        _build_in(host, base, key, built, model.attachments[slot])
    mixing = ", ".join(slot for slot in model.slot_ids if slot in committed and cell_mixes_tokens(model.cell(slot)))
    if mixing and takes_cache(host):
        _switch_cache_off(host, mixing)
    training = host.training
    with evaluation_mode(host):
        plain = _unwrapped(host, {})
    for module in plain.modules():
        if isinstance(module, fx.GraphModule) or type(module) is nn.Module:  # made by tracing
            module.training = training
    return plain


def _span_cells(model: SlottedNetwork) -> dict[str, SpanCell]:
    return {slot: cell for slot, cell in ((s, model.cell(s)) for s in model.slot_ids) if isinstance(cell, SpanCell)}


def _fold_spans(host: nn.Module, cells: Mapping[str, SpanCell]) -> None:
    """Make copies of the committed seeds of spans a part of the layers of ``host``."""
    seeds = [(cell.region, copy.deepcopy(cell.seed)) for cell in cells.values() if isinstance(cell.seed, Widening)]
    layers = Layers(host.get_submodule, seeds)
    for region, seed in seeds:
        Transaction().widen(layers, region, seed, seed.channels)


def _build_in(host: nn.Module, base: nn.Module, key: int, cell: SeedCell | None, at: Attachment) -> None:
    """Put the seed of ``cell``, if any, in the place of the slot's hook."""
    if cell is None or at.way != "hook":
        del base._forward_hooks[key]
    if cell is None:
        return
    twin, hooked = _twin(cell), at.way == "hook" and not _is_internal(base)
    fossil = _traced(_FossilHook(twin, at) if hooked else _Fossil(twin, at))
    build_in(host, base, at.way, fossil, key)
    if at.way == "hook" and not hooked:
        base._forward_hooks[key] = _InlineHook(fossil)


def _twin(cell: SeedCell) -> SeedCell:
    """A cell with a copy of the seed and the gate network of ``cell``."""
    twin = SeedCell(cell.shape, cell.example_shape, cell.incubation)
    twin.seed = None if cell.seed is None else copied(cell.seed, {})
    twin.gate = None if cell.gate is None else copied(cell.gate, {})
    twin.operator = cell.operator
    return twin


def _switch_cache_off(host: nn.Module, slots: str) -> None:
    warnings.warn(
        f"the seed in {slots} mixes tokens; the plain model generates without a cache of keys and values", stacklevel=4
    )
    for name in ("config", "generation_config"):
        if hasattr(getattr(host, name, None), "use_cache"):
            setattr(getattr(host, name), "use_cache", False)  # noqa: B010  # of a type that is not known
    guard = _traced(_NoCache(slots))
    host.register_forward_pre_hook(guard, with_kwargs=True)


def _warn_about_live_seeds(model: SlottedNetwork) -> None:
    committed = model.committed_slots
    for slot in model.slot_ids:
        state, cell = model.states[slot], model.cell(slot)
        if state is None or cell.seed is None or slot in committed:
            continue
        contribution = model.growth.contributions.get(slot)
        known = "" if contribution is None else f", with a measured contribution of {contribution:+.2f} points"
        warnings.warn(
            f"plain() leaves out the seed in {slot}: {state.blueprint} is {state.stage.name}, not committed{known}",
            stacklevel=4,
        )


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


def _is_internal(module: Any) -> bool:
    return type(module).__module__.split(".", maxsplit=1)[0] == PACKAGE
