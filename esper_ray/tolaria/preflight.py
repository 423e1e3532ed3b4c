"""Operations are looked at before they are carried out: a birth that would break a limit is vetoed.

Memory is estimated from shapes alone, so that the same run vetoes the same births wherever it is played.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints import build_seed
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.leyline.actions import BlendOperator, Blueprint
from esper_ray.leyline.blueprints import seed_parameter_count
from esper_ray.leyline.config.run import GovernorConfig
from esper_ray.tolaria.data import Dataset

COPIES = 4
"""Tensors of the size of each parameter while it is trained: weight, gradient, momentum, snapshot."""
MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Veto:
    """Why an operation is not carried out."""

    reason: str
    value: float
    limit: float


class Preflight:
    """Knows what the network of an episode needs, and what a birth would add."""

    def __init__(self, config: GovernorConfig, model: MorphogeneticModel, data: Dataset[Any], batch_size: int) -> None:
        self.config, self.model, self.batch_size = config, model, batch_size
        self._activations = 0
        if config.max_memory_mb:
            inputs = data.prepared(data.train, 0, 2)[0]
            self._activations = _saved_bytes(lambda: model(inputs), model, inputs) // 2

    def veto(self, slot: str, blueprint: Blueprint, operator: BlendOperator) -> Veto | None:
        """Why ``blueprint`` must not be born in ``slot``, ``None`` if it may."""
        model, config = self.model, self.config
        cell = model.cell(slot)
        newborn = seed_parameter_count(cell.shape.topology, blueprint, cell.shape.channels, operator)
        total = newborn + model.host_parameters + sum(map(model.seed_parameters, model.slot_ids))
        if config.max_parameters and total > config.max_parameters:
            return Veto("parameters of host and seeds exceed governor.max_parameters", total, config.max_parameters)
        if config.max_memory_mb:
            megabytes = self.memory_bytes(total, {slot: blueprint}) / MEGABYTE
            if megabytes > config.max_memory_mb:
                return Veto("estimated MB of memory exceed governor.max_memory_mb", megabytes, config.max_memory_mb)
        return None

    def memory_bytes(self, parameters: int, born: dict[str, Blueprint]) -> int:
        """Estimate of what training needs: ``parameters``, and the activations of host, live seeds and ``born``."""
        examples = self._activations
        for slot in self.model.slot_ids:
            cell, state = self.model.cell(slot), self.model.states[slot]
            if slot in born:
                examples += seed_activation_bytes(cell, born[slot].id)
            elif state is not None and cell.seed is not None:
                examples += seed_activation_bytes(cell, state.blueprint)
        return COPIES * 4 * parameters + self.batch_size * examples


def seed_activation_bytes(cell: SeedCell, blueprint: str) -> int:
    """Bytes that a seed keeps for its backward pass, for each example of a batch."""
    with seeded_initialisation(0):
        seed = build_seed(blueprint, cell.shape).to(cell.alpha)
    probe = torch.zeros(2, *cell.example_shape).to(cell.alpha)
    return _saved_bytes(lambda: seed(probe), seed, probe) // 2


def _saved_bytes(run: Callable[[], Any], module: nn.Module, inputs: Tensor) -> int:
    """Bytes of the distinct tensors that ``run`` saves for the backward pass, besides parameters and inputs."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (inputs, *module.parameters(), *module.buffers())}
    sizes: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            sizes[place] = tensor  # held, so that no other tensor can take its place
        return tensor

    with (
        torch.enable_grad(),
        evaluation_mode(module),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in sizes.values())
