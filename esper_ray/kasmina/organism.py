"""A growing network with its optimizer, snapshotted and restored together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper_ray.kasmina.export.checkpoints import expected_tensors
from esper_ray.kasmina.export.differences import EXTRA_STATE
from esper_ray.kasmina.lifecycle.consistency import check_seeds
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import assign, fits_memory
from esper_ray.kasmina.network.optimizer_states import ParameterState
from esper_ray.kasmina.network.records import GrowthRecord
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.leyline.files.tensors import TensorSpec, dtype_name, listed, tensor_problems


@dataclass(frozen=True, slots=True)
class OrganismSnapshot:
    """Structure as plain data and tensors by name, enough to rebuild the organism exactly."""

    growth: GrowthRecord
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, ParameterState]


@dataclass(frozen=True, slots=True)
class Organism:
    """A morphogenetic model and the optimizer that follows its structure."""

    model: MorphogeneticModel
    optimizer: GrowingOptimizer

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.cell(self.model.slot_ids[0]).alpha.device

    def snapshot(self) -> OrganismSnapshot:
        """A copy of structure, weights, buffers and optimizer state."""
        tensors = {n: t.detach().clone() for n, t in self.model.state_dict().items() if n != EXTRA_STATE}
        return OrganismSnapshot(self.model.growth.record(), tensors, self.optimizer.state_by_name())

    def check(self, snapshot: OrganismSnapshot) -> dict[str, dict[str, nn.Module | None]]:
        """Check that ``snapshot`` belongs to this host and can be restored. Nothing is changed.

        Returns:
            New modules for its seeds, by slot.

        Raises:
            ValueError: with the place and the difference.
        """
        with self.model.growth.refitted(snapshot.growth.added, keep=False):
            return self._checked(snapshot)

    def _checked(self, snapshot: OrganismSnapshot) -> dict[str, dict[str, nn.Module | None]]:
        """See :meth:`check`; spans are as wide as those of ``snapshot``."""
        growth, record = self.model.growth, snapshot.growth
        check_seeds(record.states, record.germinations, growth.states)
        modules = growth.rebuild(record)
        expected = expected_tensors(self.model, record, modules)
        specs = {name: TensorSpec(dtype_name(t), tuple(t.shape), finite=False) for name, t in expected.items()}
        problems = tensor_problems(snapshot.tensors, specs)
        problems += [
            f"tensor {name} has different values where the host has one place in memory"
            for name, tensor in snapshot.tensors.items()
            if name in expected and not fits_memory(expected[name], tensor)
        ]
        strange = snapshot.optimizer.keys() - self.parameters(modules).keys()
        problems += [f"optimizer state of {name}: no such parameter" for name in sorted(strange)]
        if problems:
            raise ValueError(listed(problems))
        return modules

    def restore(self, snapshot: OrganismSnapshot) -> None:
        """Restore ``snapshot``: structure first, then tensors, then optimizer state.

        Raises:
            ValueError: if it belongs to another host or is not possible; nothing is changed then.
        """
        with self.model.growth.refitted(snapshot.growth.added):
            self.model.growth.adopt(snapshot.growth, self._checked(snapshot))
        self.model.refresh_places()
        tensors = self.model.state_dict()
        for name, tensor in snapshot.tensors.items():
            assign(tensors[name], tensor)
        self.optimizer.load_state_by_name(snapshot.optimizer)

    def parameters(self, modules: Mapping[str, Mapping[str, nn.Module | None]]) -> dict[str, nn.Parameter]:
        """Parameters of the host and of ``modules`` from :meth:`check`, by their names in the model."""
        parameters = {f"host.{name}": parameter for name, parameter in self.model.host.named_parameters()}
        for slot, parts in modules.items():
            for part, module in parts.items():
                inner = () if module is None else module.named_parameters()
                parameters |= {f"cells.{slot}.{part}.{name}": parameter for name, parameter in inner}
        return parameters
