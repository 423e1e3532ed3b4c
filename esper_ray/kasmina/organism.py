"""A growing network with its optimiser, snapshotted and restored together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from esper_ray.kasmina.export.checkpoints import EXTRA_STATE
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.growth import GrowthRecord
from esper_ray.kasmina.optimizer import GrowingOptimizer, ParameterState


@dataclass(frozen=True, slots=True)
class OrganismSnapshot:
    """Structure as plain data and tensors by name, enough to rebuild the organism exactly."""

    growth: GrowthRecord
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, ParameterState]


@dataclass(frozen=True, slots=True)
class Organism:
    """A morphogenetic model and the optimiser that follows its structure."""

    model: MorphogeneticModel
    optimizer: GrowingOptimizer

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.cell(self.model.slot_ids[0]).alpha.device

    def snapshot(self) -> OrganismSnapshot:
        """A copy of structure, weights, buffers and optimiser state."""
        tensors = {n: t.detach().clone() for n, t in self.model.state_dict().items() if n != EXTRA_STATE}
        return OrganismSnapshot(self.model.growth.record(), tensors, self.optimizer.state_by_name())

    def restore(self, snapshot: OrganismSnapshot) -> None:
        """Restore ``snapshot``: structure first, then tensors, then optimiser state."""
        growth = self.model.growth
        growth.adopt(snapshot.growth, growth.rebuild(snapshot.growth))
        tensors = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in snapshot.tensors.items():
                tensors[name].copy_(tensor)
        self.optimizer.load_state_by_name(snapshot.optimizer)
