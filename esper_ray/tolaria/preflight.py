"""Preflight checks that veto a birth beyond the limits of an episode.

Memory is estimated from shapes alone, so that the same run vetoes the same births on every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints import is_built_in
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import count_parameters, seeded_initialisation
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.leyline.actions import BlendOperator, Blueprint
from esper_ray.leyline.blueprints import gate_parameters, seed_parameter_count
from esper_ray.leyline.config.run import GovernorConfig
from esper_ray.tolaria.data import Dataset

COPIES = 4
"""Number of tensors per trained parameter: weight, gradient, momentum, snapshot."""
MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Veto:
    """Reason to reject an operation."""

    reason: str
    value: float
    limit: float


class Preflight:
    """Estimator of what an episode's network needs and a birth adds."""

    def __init__(self, config: GovernorConfig, model: MorphogeneticModel, data: Dataset[Any], batch_size: int) -> None:
        self.config, self.model, self.batch_size = config, model, batch_size
        self._activations = 0
        if config.max_memory_mb:
            inputs = data.prepared(data.train, 0, 2)[0]
            self._activations = _saved_bytes(lambda: model(inputs), model, inputs) // 2

    def veto(self, slot: str, blueprint: Blueprint, operator: BlendOperator) -> Veto | None:
        """Veto against ``blueprint`` in ``slot``, ``None`` if it is allowed."""
        model, config = self.model, self.config
        cell = model.cell(slot)
        newborn = newborn_parameters(cell, self._name(blueprint), operator)
        total = newborn + model.host_parameters + sum(map(model.seed_parameters, model.slot_ids))
        if config.max_parameters and total > config.max_parameters:
            return Veto("parameters of host and seeds exceed governor.max_parameters", total, config.max_parameters)
        if config.max_memory_mb:
            megabytes = self.memory_bytes(total, {slot: self._name(blueprint)}) / MEGABYTE
            if megabytes > config.max_memory_mb:
                return Veto("estimated MB of memory exceed governor.max_memory_mb", megabytes, config.max_memory_mb)
        return None

    def memory_bytes(self, parameters: int, born: dict[str, str]) -> int:
        """Estimated training memory of ``parameters`` and activations.

        Args:
            born: names of blueprints by slot, whose activations are included.
        """
        examples = self._activations
        for slot in self.model.slot_ids:
            cell, state = self.model.cell(slot), self.model.states[slot]
            if slot in born:
                examples += seed_activation_bytes(cell, born[slot])
            elif state is not None and cell.seed is not None:
                examples += seed_activation_bytes(cell, state.blueprint)
        return COPIES * 4 * parameters + self.batch_size * examples

    def _name(self, blueprint: Blueprint) -> str:
        return self.model.growth.options.own_blueprints.get(blueprint, blueprint.id)


def newborn_parameters(cell: SeedCell, blueprint: str, operator: BlendOperator) -> int:
    """Structural parameter count of a newborn seed with its gate network. An own blueprint is built for it."""
    shape = cell.shape
    if is_built_in(blueprint):
        return seed_parameter_count(shape.topology, Blueprint.from_id(blueprint), shape.channels, operator)
    with seeded_initialisation(0):
        count = count_parameters(cell.newborn(blueprint))
    return count + (gate_parameters(shape.channels) if operator is BlendOperator.GATE else 0)


def seed_activation_bytes(cell: SeedCell, blueprint: str) -> int:
    """Bytes that a seed saves for its backward pass, per example."""
    with seeded_initialisation(0):
        seed = cell.newborn(blueprint).to(cell.alpha)
    probe = torch.zeros_like(cell.probe(2))
    return _saved_bytes(lambda: seed(probe), seed, probe) // 2


def _saved_bytes(run: Callable[[], Any], module: nn.Module, inputs: Tensor) -> int:
    """Bytes of the distinct tensors that ``run`` saves for the backward pass.

    Parameters and inputs are not counted.
    """
    excluded = {tensor.untyped_storage().data_ptr() for tensor in (inputs, *module.parameters(), *module.buffers())}
    sizes: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in excluded:
            sizes[place] = tensor  # held, so that no other tensor can take its place
        return tensor

    with (
        torch.enable_grad(),
        evaluation_mode(module),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in sizes.values())
