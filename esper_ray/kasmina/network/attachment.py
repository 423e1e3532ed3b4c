"""Attachment of slots: one evaluation pass records the outputs of submodules."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints import SlotShape
from esper_ray.kasmina.modules import differentiable_checkpoints, preserved_randomness
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.passes.branching import repeated
from esper_ray.kasmina.network.passes.rows import Passes, coalition_passes, other_rows, uses_batch_statistics
from esper_ray.kasmina.network.places.building import SlotOutput, Way, found_ways
from esper_ray.kasmina.network.places.evidence import LayoutError, found_layouts
from esper_ray.kasmina.network.places.inputs import batch_size, converted
from esper_ray.kasmina.network.places.layouts import Layout
from esper_ray.kasmina.network.places.memory import HeldTensors
from esper_ray.kasmina.network.places.names import check_compilation, named_modules
from esper_ray.kasmina.network.places.outputs import (
    Container,
    container_of,
    description,
    features_of,
    key_of,
    tensors_in,
    with_features,
)
from esper_ray.kasmina.network.places.progress import PassProgress, watched_progress
from esper_ray.kasmina.network.places.recording import HostPass, layers_of, recorded
from esper_ray.kasmina.network.spans.finding import Span
from esper_ray.kasmina.network.spans.placing import divided_places, found_regions
from esper_ray.kasmina.network.spans.regions import ARROW, Region
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.context import SlotPlace
from esper_ray.leyline.slots import ordered_slot_ids


@dataclass(frozen=True, slots=True)
class Attachment:
    """A slot on the output of a submodule."""

    slot: str
    module: str
    """Name of the submodule, as in ``host.named_modules()``."""
    shape: SlotShape
    example_shape: tuple[int, ...]
    """Shape of the features of one example, in the layout of blueprints."""
    dtype: torch.dtype = torch.float32
    """Type of the features."""
    passes: Passes = "separate"
    """Way in which passes with and without a seed here can be computed at once."""
    layout: Layout = Layout.BD
    """Order of the dimensions of the features."""
    container: Container = "tensor"
    """Kind of the output that carries the features."""
    key: str | None = None
    """Name of the entry that holds them, in named tuples and mappings."""
    way: Way = "hook"
    """Way in which a committed seed is built into a plain copy of the host."""
    host_cache: str | None = None
    """Tensor of the host that keeps earlier tokens from one pass to the next (sequences)."""
    region: Region | None = field(default=None, compare=False)
    """The span that the slot sits on, if it does; ``module`` is its consumer."""
    progress: PassProgress = field(default=PassProgress(), compare=False)
    """How far a forward pass has come here."""

    @property
    def place(self) -> str:
        """Name of the submodule, or of the two layers of the span."""
        return self.module if self.region is None else f"{self.region.producer.name}{ARROW}{self.module}"

    @property
    def position(self) -> SlotPlace:
        """Where the slot sits, as policies see it."""
        shape, sizes = self.shape, self.example_shape
        of_channels = sizes[1:] if shape.topology is Topology.IMAGES else sizes[:-1]
        return SlotPlace(
            depth=self.progress.depth,
            channels=shape.channels,
            positions=max(1, math.prod(of_channels)),
            upstream_share=self.progress.upstream_share,
            topology=shape.topology,
            on_span=self.region is not None,
        )


class SlotHook:
    """Forward hook of a slot. It is an object, so that a copied model hooks its own cells."""

    def __init__(self, cell: SeedCell, layout: Layout) -> None:
        self.cell, self.layout = cell, layout

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        """The submodule's output with its features after the cell."""
        cell = self.cell
        if cell.seed is None and cell.tap is None:
            return output
        features = features_of(output)
        if features is None:
            raise ValueError(f"a place with a seed yields a {description(output)}, no features")
        before = self.layout.canonical(features)
        after: Tensor = cell(before)
        if after is before:
            return output
        after = self.layout.restored(after)
        return after if isinstance(output, Tensor) else with_features(output, after)


def check_unwrapped(host: nn.Module) -> None:
    """Check that ``host`` has no slots.

    Raises:
        ValueError: if it has.
    """
    if any(isinstance(hook, SlotHook) for module in host.modules() for hook in module._forward_hooks.values()):
        raise ValueError("the host has slots already; wrap a fresh copy of it")


def attach(
    host: nn.Module,
    slots: Mapping[str, str | Span],
    example_input: Any,
    *,
    causal: bool,
    layout: str | Mapping[str, str] | None = None,
) -> list[Attachment]:
    """The slots in forward order. The host is not changed.

    Args:
        slots: submodule of each slot, or the span between two: ``producer -> consumer``.
        layout: order of the dimensions, of all slots or by slot; default: found by runs of the host.

    Raises:
        SlotIdError: if a slot id is malformed or there is none.
        ValueError: if a submodule does not exist, carries two slots, is compiled, is never called, is called more
            than once, or returns something that no seed can work on; if the layout of a slot does not show; or if
            no seed can be built in behind a submodule.
        SpanError: if there is no span between two layers, with the reason.
    """
    places, spans = divided_places(slots)
    modules = named_modules(host, places)
    check_compilation(host, places)
    producers = {slot: producer for slot, (producer, _) in spans.items()}
    if producers:
        named_modules(host, producers)
        check_compilation(host, producers)
    randomness = preserved_randomness(_device(host))
    with torch.no_grad(), evaluation_mode(host), randomness, differentiable_checkpoints():

        def run(inputs: Any) -> Any:
            return _call_with_copies(host, inputs)

        held = HeldTensors(host)
        inputs, first = _first_pass(run, host, modules, example_input)
        cache = held.kept_by(partial(run, inputs))
        _check_calls(places, first)
        for slot, output in first.outputs:
            _check_output(slot, places[slot], output)
        progress = _progress(run, inputs, host, modules)
        regions = found_regions(host, places, spans, lambda trial: _call_with_copies(trial, inputs))
        layouts = _layouts(run, inputs, modules, first, layout)
        ways = _ways(host, places, inputs, first)
        passes = _passes(run, host, {slot: modules[slot] for slot, _ in first.outputs}, inputs, first, layouts)
    attachments = [
        _attachment(slot, places[slot], output, layouts[slot], causal, passes[slot], ways[slot], cache)
        for slot, output in first.outputs
    ]
    return [replace(at, region=regions.get(at.slot), progress=progress[at.slot]) for at in attachments]


@contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """Context of evaluation mode for ``modules`` that restores every submodule's mode."""
    modes = [(module, module.training) for root in modules for module in root.modules()]
    for module, mode in modes:
        if mode:
            module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            if module.training is not mode:
                module.training = mode


def call(model: nn.Module, inputs: Any) -> Any:
    """Output of ``model`` for one example input.

    The input is a tensor, a tuple of positional or a mapping of named arguments.
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _first_pass(
    run: Callable[[Any], Any], host: nn.Module, modules: Mapping[str, nn.Module], example_input: Any
) -> tuple[Any, HostPass]:
    """Inputs that the host takes, and the recording of a pass on them.

    The inputs are the example with other rows, if the host can work on them: the example may be all zeros.
    """

    def varied(value: Any) -> Any:
        real = isinstance(value, Tensor) and value.dim() and value.is_floating_point()
        return other_rows(value) if real else value

    layers = layers_of(host)
    inputs = converted(example_input, varied)
    recording = recorded(run, inputs, modules, layers)
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors_in(recording.output) if tensor.is_floating_point())
    if recording.error is not None or not finite:
        inputs, recording = example_input, recorded(run, example_input, modules, layers)
    if recording.error is not None:
        raise recording.error
    if not tensors_in(recording.output):
        raise ValueError(f"{type(host).__name__} returns a {description(recording.output)}, which holds no tensor")
    return inputs, recording


def _progress(
    run: Callable[[Any], Any], inputs: Any, host: nn.Module, modules: Mapping[str, nn.Module]
) -> dict[str, PassProgress]:
    """Progress of a pass at each slot."""
    with watched_progress(host, modules) as watch:
        run(inputs)
    return watch.progress(host)


def _check_calls(slots: Mapping[str, str], first: HostPass) -> None:
    called = [slot for slot, _ in first.outputs]
    for slot in ordered_slot_ids(slots):
        times = called.count(slot)
        if times == 0:
            raise ValueError(f"slot {slot}: submodule {slots[slot]!r} is never called in a forward pass")
        if times > 1:
            raise ValueError(
                f"slot {slot}: submodule {slots[slot]!r} is shared, it is called {times} times in a forward pass; "
                "a slot needs a place that is passed once"
            )


def _check_output(slot: str, module: str, output: Any) -> None:
    place, features = f"slot {slot}: submodule {module!r}", features_of(output)
    if features is None or features.layout is not torch.strided or features.is_nested:
        raise ValueError(
            f"{place} returns a {description(output)}; a slot needs a dense tensor, or one that is the first entry of "
            "a tuple, a list or a mapping"
        )
    if features.dim() not in {len(layout.value) for layout in Layout} or not features.is_floating_point():
        raise ValueError(
            f"{place} returns {features.dtype} of shape {tuple(features.shape)}; a slot needs floating-point features "
            f"in one of the layouts {', '.join(layout.value for layout in Layout)}"
        )


def _layouts(
    run: Callable[[Any], Any],
    inputs: Any,
    modules: Mapping[str, nn.Module],
    first: HostPass,
    layout: str | Mapping[str, str] | None,
) -> dict[str, Layout]:
    """Layout of each slot, said or found."""
    names = dict.fromkeys(modules, layout) if isinstance(layout, str) else dict(layout or {})
    for slot in names:
        if slot not in modules:
            raise ValueError(unknown_name_message("slot", slot, list(modules)))
    said = {slot: Layout.parse(name) for slot, name in names.items() if name is not None}
    for slot, order in said.items():
        shape = tuple(first.features[slot].shape)
        if len(shape) != len(order.value):
            raise LayoutError(f"slot {slot} yields {shape}, layout {order.value} has {len(order.value)} dimensions")
    rest = {slot: module for slot, module in modules.items() if slot not in said}
    return said | (found_layouts(run, inputs, rest, first) if rest else {})


def _ways(host: nn.Module, slots: Mapping[str, str], inputs: Any, first: HostPass) -> dict[str, Way]:
    """Way to build a committed seed into a plain copy, by slot."""
    places = [SlotOutput(slot, slots[slot], output) for slot, output in first.outputs]
    places.sort(key=lambda place: place.module.count("."), reverse=True)
    return found_ways(host, places, lambda trial: _call_with_copies(trial, inputs), first.output)


def _passes(
    run: Callable[[Any], Any],
    host: nn.Module,
    modules: Mapping[str, nn.Module],
    inputs: Any,
    first: HostPass,
    layouts: Mapping[str, Layout],
) -> dict[str, Passes]:
    """Way to compute coalitions by slot, probed on the example. ``modules`` are in forward order."""
    output = first.output
    if uses_batch_statistics(host) or not isinstance(output, Tensor) or not output.dim():
        return dict.fromkeys(modules, "separate")
    places = {slot: (module, layouts[slot]) for slot, module in modules.items()}

    def run_copies(copies: int) -> Any:
        return run(converted(inputs, lambda value: repeated(value, copies)))

    return coalition_passes(run_copies, places, output, batch_size(inputs))


def _call_with_copies(host: nn.Module, inputs: Any) -> Any:
    """Output for copies of ``inputs``; a host may work in place."""
    return call(host, converted(inputs, lambda value: value.clone() if isinstance(value, Tensor) else value))


def _device(host: nn.Module) -> torch.device:
    first = next(host.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _attachment(
    slot: str, module: str, output: Any, layout: Layout, causal: bool, passes: Passes, way: Way, cache: str | None
) -> Attachment:
    original = features_of(output)
    assert original is not None
    features = layout.canonical(original)
    shape = SlotShape(layout.topology, features.shape[1 if layout.topology is Topology.IMAGES else -1], causal)
    container = container_of(output)
    assert container is not None
    return Attachment(
        slot,
        module,
        shape,
        tuple(features.shape[1:]),
        features.dtype,
        passes,
        layout,
        container,
        key_of(output),
        way,
        cache if layout.topology is Topology.SEQUENCES else None,
    )
