"""Discovery of submodules that can carry slots in any module."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from esper_ray.kasmina.network.attachment import attach, call, evaluation_mode
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.slots import format_slot_id

DEEPEST = 3
"""Depth of the submodules that are searched."""


def find_slots(model: nn.Module, example_input: Any, topologies: Collection[Topology], most: int) -> dict[str, str]:
    """Slots on the last ``most`` parts of ``model``: slot id to submodule name.

    Parts are submodules with parameters of their own or below, all of one depth, the smallest at which there are
    any. Their output must be of one of ``topologies`` and not the output of the model.

    Raises:
        ValueError: if there is no such place.
    """
    for depth in range(1, DEEPEST + 1):
        names = [name for name, _ in model.named_modules() if name and name.count(".") == depth - 1]
        fitting = [name for name in names if _fits(model, name, example_input, topologies)]
        if fitting:
            slots = {format_slot_id(0, column): name for column, name in enumerate(fitting)}
            ordered = [attachment.module for attachment in attach(model, slots, example_input, causal=True)]
            return {format_slot_id(0, column): name for column, name in enumerate(ordered[-most:])}
    wanted = ", ".join(sorted(topology.value for topology in topologies))
    raise ValueError(
        f"no submodule of {type(model).__name__} yields {wanted} that a seed could work on; name the slots"
    )


def _fits(model: nn.Module, name: str, example_input: Any, topologies: Collection[Topology]) -> bool:
    """Whether the submodule ``name`` can carry a slot."""
    module = model.get_submodule(name)
    if next(module.parameters(), None) is None:
        return False
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        with torch.no_grad(), evaluation_mode(model):
            final = call(model, example_input)
        [attachment] = attach(model, {format_slot_id(0, 0): name}, example_input, causal=True)
    except ValueError:
        return False
    finally:
        handle.remove()
    return attachment.shape.topology in topologies and outputs[0] is not final
