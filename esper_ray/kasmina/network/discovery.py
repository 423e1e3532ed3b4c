"""Discovery of submodules that can carry slots in any module.

The rule, for at most N slots:

1. One evaluation pass records the output of every submodule with parameters. Those that are called once, yield one
   floating-point tensor with the batch first, and not the model's output, are candidates. Only candidates with the most
   frequent topology count, so that the same blueprints fit all slots.
2. The outermost candidates, in the order in which they end, are divided into stages: neighbours with the same feature
   size. Where there are fewer stages than N, large parts are replaced by their own parts, down to a list of two equal
   blocks or more: a block of a transformer is not divided into its projections.
3. The slots sit at the ends of the last N stages. Fewer stages than N share what is left: evenly spaced blocks of the
   longest stage.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from esper_ray.kasmina.network.attachment import Attachment, attach, call, check_unwrapped, evaluation_mode
from esper_ray.kasmina.network.places.building import CopyError
from esper_ray.kasmina.network.places.names import check_host
from esper_ray.kasmina.network.places.outputs import features_of
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.slots import format_slot_id, ordered_slot_ids

PROBABLE_TOPOLOGY = {2: Topology.FEATURES, 3: Topology.SEQUENCES, 4: Topology.IMAGES}
"""Topology by number of dimensions, to choose candidates; ``attach`` finds the real one."""
MOST_REFUSALS = 12
"""Number of places that are tried in vain before the search ends."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A candidate for a slot."""

    name: str
    kind: str
    """Name of the module's class."""
    order: int
    """Position in the order in which modules end."""
    shape: tuple[int, ...]
    """Shape of the features of one example."""
    output: int
    """Identity of the output tensor."""

    @property
    def topology(self) -> Topology:
        return PROBABLE_TOPOLOGY[len(self.shape) + 1]


def find_slots(model: nn.Module, example_input: Any, topologies: Collection[Topology], most: int) -> dict[str, str]:
    """Slots at the ends of the stages of ``model``, by the rule of this module: slot id to submodule name.

    Raises:
        ValueError: as :func:`found_attachments`.
    """
    attachments = found_attachments(model, example_input, topologies, most)
    modules = {at.slot: at.module for at in attachments}
    return {slot: modules[slot] for slot in ordered_slot_ids(modules)}


def found_attachments(
    model: nn.Module, example_input: Any, topologies: Collection[Topology], most: int, *, causal: bool = True
) -> list[Attachment]:
    """Slots that the rule of this module finds in ``model``, in forward order.

    Raises:
        ValueError: if there is no such place, with the reasons; if ``model`` is compiled, cannot be copied, or has
            slots already.
    """
    check_unwrapped(model)
    check_host(model)
    places = {place.name: place for place in _places(model, example_input) if place.topology in topologies}
    refusals: list[str] = []
    while places and len(refusals) < MOST_REFUSALS:
        chosen = _chosen(places, most)
        attachments, refused = _tried(model, chosen, example_input, topologies, causal)
        if not refused:
            return attachments
        refusals += refused.values()
        for name in refused:
            del places[name]
    wanted = ", ".join(sorted(topology.value for topology in topologies))
    reasons = f": {refusals[0]}" if refusals else ""
    raise ValueError(
        f"no submodule of {type(model).__name__} yields {wanted} that a seed could work on{reasons}; name the slots, "
        "for example slots={'r0c0': 'layer1'}"
    )


def slot_table(model: SlottedNetwork) -> str:
    """Table of the slots that were found: slot, submodule, features."""
    rows = [
        (slot, at.place, " x ".join(map(str, at.example_shape)), at.shape.topology.value)
        for slot, at in model.attachments.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"slots at the ends of the stages of {type(model.host).__name__} (slots= names others):", *lines])


def _numbered(names: Sequence[str]) -> dict[str, str]:
    """Slots on ``names``, in this order."""
    return {format_slot_id(0, column): name for column, name in enumerate(names)}


def _tried(
    model: nn.Module, names: Sequence[str], example_input: Any, topologies: Collection[Topology], causal: bool
) -> tuple[list[Attachment], dict[str, str]]:
    """Slots on ``names``, or the reasons why some cannot carry one, by name."""
    try:
        attachments = attach(model, _numbered(names), example_input, causal=causal)
    except CopyError:
        raise
    except ValueError as error:
        if len(names) == 1:
            return [], {names[0]: str(error)}
        single = [_tried(model, [name], example_input, topologies, causal)[1] for name in names]
        return [], {name: reason for refused in single for name, reason in refused.items()} or {names[-1]: str(error)}
    strange = [at for at in attachments if at.shape.topology not in topologies]
    return attachments, {at.module: f"submodule {at.module!r} yields {at.shape.topology.value}" for at in strange}


def _places(model: nn.Module, example_input: Any) -> list[_Place]:
    """Candidates in the order in which they end."""
    records: list[tuple[str, nn.Module, Tensor | None]] = []

    def watch(name: str) -> Any:
        def note(module: nn.Module, _inputs: Any, output: Any) -> None:
            records.append((name, module, features_of(output)))

        return note

    named = [
        (name, module) for name, module in model.named_modules() if name and any(True for _ in module.parameters())
    ]
    handles = [module.register_forward_hook(watch(name)) for name, module in named]
    try:
        with torch.no_grad(), evaluation_mode(model):
            final = {id(leaf) for leaf in tree_leaves(call(model, example_input))}
    finally:
        for handle in handles:
            handle.remove()
    calls = Counter(name for name, _, _ in records)
    batches = [tensor.shape[0] for tensor in tree_leaves(example_input) if isinstance(tensor, Tensor) and tensor.dim()]
    return [
        _Place(name, type(module).__name__, order, tuple(tensor.shape[1:]), id(tensor))
        for order, (name, module, tensor) in enumerate(records)
        if tensor is not None
        and calls[name] == 1
        and id(tensor) not in final
        and tensor.is_floating_point()
        and tensor.dim() in PROBABLE_TOPOLOGY
        and tensor.shape[0] in batches
    ]


def _chosen(places: Mapping[str, _Place], most: int) -> list[str]:
    """Names of the places, in forward order."""
    counts = Counter(place.topology for place in places.values())
    topology = max(counts, key=lambda candidate: counts[candidate])
    fitting = {name: place for name, place in places.items() if place.topology is topology}
    units, divided = _inside("", fitting), set[str]()
    while len(_stages(units)) < most and max(map(len, _blocks(units))) < min(2, most):
        parts = {unit.name: _inside(unit.name, fitting) for unit in units if unit.name not in divided}
        widest = max(parts, key=lambda name: len(parts[name]), default="")
        if not widest or len(parts[widest]) < 2:
            break
        divided.add(widest)
        same_end = fitting[widest].shape == parts[widest][-1].shape
        remaining = [unit for unit in units if unit.name != widest or not same_end]
        units = sorted(remaining + parts[widest], key=lambda unit: unit.order)
    stages = _stages(units)
    if len(stages) >= most:
        ends = [stage[-1] for stage in stages[-most:]]
    else:
        longest = max(range(len(stages)), key=lambda index: max(map(len, _blocks(stages[index]))))
        ends = []
        for index, stage in enumerate(stages):
            ends += _spaced(stage, most - len(stages) + 1) if index == longest else [stage[-1]]
    return [_outer(end, units, fitting).name for end in ends]


def _inside(name: str, places: Mapping[str, _Place]) -> list[_Place]:
    """Outermost candidates strictly inside the module ``name``, in the order in which they end."""
    prefix = f"{name}." if name else ""
    inner = [place for place in places.values() if place.name.startswith(prefix) and place.name != name]
    names = {place.name for place in inner}

    def is_outermost(place: _Place) -> bool:
        parts = place.name[len(prefix) :].split(".")
        return not any(prefix + ".".join(parts[:depth]) in names for depth in range(1, len(parts)))

    return sorted(filter(is_outermost, inner), key=lambda place: place.order)


def _stages(units: Sequence[_Place]) -> list[list[_Place]]:
    """Neighbours with the same feature size."""
    return [list(group) for _, group in groupby(units, key=lambda place: place.shape)]


def _blocks(units: Sequence[_Place]) -> list[list[_Place]]:
    """Units of one stage with the same parent and class."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[_Place]] = {}
    for unit in units:
        groups.setdefault((unit.name.rpartition(".")[0], unit.kind, unit.shape), []).append(unit)
    return list(groups.values())


def _spaced(stage: Sequence[_Place], count: int) -> list[_Place]:
    """At most ``count`` of the equal blocks of a stage, evenly spaced, the last included."""
    blocks = max(_blocks(stage), key=len)
    if len(blocks) == 1:
        return [stage[-1]]
    count = min(count, len(blocks))
    return [blocks[(index + 1) * len(blocks) // count - 1] for index in range(count)]


def _outer(place: _Place, units: Sequence[_Place], places: Mapping[str, _Place]) -> _Place:
    """The module around ``place`` that ends next and changes its output.

    It does so by an activation, for example. Without one it is ``place`` itself.
    """
    parent = places.get(place.name.rpartition(".")[0])
    if parent is None or parent.shape != place.shape or parent.output == place.output:
        return place
    later = [unit for unit in units if place.order < unit.order < parent.order]
    return place if later else _outer(parent, units, places)
