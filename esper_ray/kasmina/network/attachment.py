"""Attachment of slots: one evaluation pass records the outputs of submodules."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints import SlotShape
from esper_ray.kasmina.network.branching import repeated
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.rows import Passes, coalition_passes, other_rows, uses_batch_statistics
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.slots import ordered_slot_ids

TOPOLOGY_OF_DIMENSIONS = {2: Topology.FEATURES, 3: Topology.SEQUENCES, 4: Topology.IMAGES}


@dataclass(frozen=True, slots=True)
class Attachment:
    """A slot on the output of a submodule."""

    slot: str
    module: str
    """Name of the submodule, as in ``host.named_modules()``."""
    shape: SlotShape
    example_shape: tuple[int, ...]
    """Shape of the features of one example."""
    dtype: torch.dtype = torch.float32
    """Type of the features."""
    passes: Passes = "separate"
    """Way in which passes with and without a seed here can be computed at once."""


class SlotHook:
    """Forward hook of a slot. It is an object, so that a copied model hooks its own cells."""

    def __init__(self, cell: SeedCell) -> None:
        self.cell = cell

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        """The submodule's output after its cell."""
        cell = self.cell
        if cell.seed is None and cell.tap is None:
            return output
        result: Tensor = cell(output)
        return result


def attach(host: nn.Module, slots: Mapping[str, str], example_input: Any, *, causal: bool) -> list[Attachment]:
    """The slots in forward order. The host is not changed.

    Raises:
        SlotIdError: if a slot id is malformed or there is none.
        ValueError: if a submodule does not exist, carries two slots, is never called, is called more
            than once, or returns something that no seed can work on.
    """
    ids = ordered_slot_ids(slots)
    named = dict(host.named_modules(remove_duplicate=False))
    named.pop("")
    owners: dict[int, str] = {}
    for slot in ids:
        name = slots[slot]
        if name not in named:
            raise ValueError(f"slot {slot}: {unknown_name_message('submodule', name, list(named))}")
        occupant = owners.setdefault(id(named[name]), slot)
        if occupant != slot:
            raise ValueError(f"slots {occupant} and {slot} sit on the same submodule: {slots[occupant]!r}, {name!r}")
    outputs = _outputs(host, {slot: named[slots[slot]] for slot in ids}, example_input)
    called = [slot for slot, _ in outputs]
    for slot in ids:
        times = called.count(slot)
        if times == 0:
            raise ValueError(f"slot {slot}: submodule {slots[slot]!r} is never called in a forward pass")
        if times > 1:
            raise ValueError(
                f"slot {slot}: submodule {slots[slot]!r} is shared, it is called {times} times in a forward pass; "
                "a slot needs a place that is passed once"
            )
    passes = _passes(host, {slot: named[slots[slot]] for slot in ids}, example_input)
    batch = _batch_size(example_input)
    return [_attachment(slot, slots[slot], output, batch, causal, passes[slot]) for slot, output in outputs]


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


def _outputs(host: nn.Module, modules: Mapping[str, nn.Module], example_input: Any) -> list[tuple[str, Any]]:
    outputs: list[tuple[str, Any]] = []

    def watch(slot: str) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs.append((slot, output.detach().clone() if isinstance(output, Tensor) else output))

        return note

    handles = [module.register_forward_hook(watch(slot)) for slot, module in modules.items()]
    try:
        with torch.no_grad(), evaluation_mode(host):
            call(host, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _batch_size(example_input: Any) -> int | None:
    parts = example_input.values() if isinstance(example_input, Mapping) else example_input
    first = example_input if isinstance(example_input, Tensor) else next(iter(parts), None)
    return first.shape[0] if isinstance(first, Tensor) and first.dim() else None


def _passes(host: nn.Module, modules: Mapping[str, nn.Module], example_input: Any) -> dict[str, Passes]:
    """Way to compute coalitions by slot, probed on the example."""
    if uses_batch_statistics(host):
        return dict.fromkeys(modules, "separate")

    def run(copies: int) -> Any:
        return call(host, _converted(inputs, lambda value: repeated(value, copies)))

    batch = _batch_size(example_input)
    with torch.no_grad(), evaluation_mode(host):
        inputs = _probe_input(host, example_input)
        return {slot: coalition_passes(run, module, batch) for slot, module in modules.items()}


def _probe_input(host: nn.Module, example_input: Any) -> Any:
    """The example with other rows, if the host can work on them: the example may be all zeros."""

    def varied(value: Any) -> Any:
        real = isinstance(value, Tensor) and value.dim() and value.is_floating_point()
        return other_rows(value) if real else value

    inputs = _converted(example_input, varied)
    try:
        output = call(host, inputs)
    except Exception:  # a host can raise anything on values that it does not expect
        return example_input
    return inputs if isinstance(output, Tensor) and bool(output.isfinite().all()) else example_input


def _converted(inputs: Any, convert: Callable[[Any], Any]) -> Any:
    """Inputs of a model, each converted."""
    if isinstance(inputs, Mapping):
        return {name: convert(value) for name, value in inputs.items()}
    return [convert(value) for value in inputs] if isinstance(inputs, tuple | list) else convert(inputs)


def _attachment(slot: str, module: str, output: Any, batch: int | None, causal: bool, passes: Passes) -> Attachment:
    place = f"slot {slot}: submodule {module!r}"
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{place} returns a {type(output).__name__}; a slot needs one tensor, so attach it to a submodule inside"
        )
    if output.dim() not in TOPOLOGY_OF_DIMENSIONS or not output.is_floating_point():
        raise ValueError(
            f"{place} returns {output.dtype} of shape {tuple(output.shape)}; a slot needs floating-point "
            "(B, C, H, W), (B, T, D) or (B, D)"
        )
    if batch is not None and output.shape[0] != batch:
        raise ValueError(
            f"{place} returns {tuple(output.shape)} for a batch of {batch}; the batch must be the first dimension"
        )
    topology = TOPOLOGY_OF_DIMENSIONS[output.dim()]
    channels = output.shape[1] if topology is Topology.IMAGES else output.shape[-1]
    shape = SlotShape(topology, channels, causal)
    return Attachment(slot, module, shape, tuple(output.shape[1:]), output.dtype, passes)
