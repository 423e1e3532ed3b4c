"""Small hosts with slots, one or two per topology, and seeds led to any stage."""

from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints import SlotShape, build_seed
from esper_ray.kasmina.lifecycle.gates import GateRules
from esper_ray.kasmina.lifecycle.reducer import Rules
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.operators import GateNetwork
from esper_ray.leyline.actions import BlendOperator, Blueprint, GerminationStyle
from esper_ray.leyline.blueprints import BLUEPRINTS_OF_TOPOLOGY, Topology
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import Stage

IMAGES, SEQUENCES, FEATURES = Topology.IMAGES, Topology.SEQUENCES, Topology.FEATURES
ADD, MULTIPLY, GATE = BlendOperator.ADD, BlendOperator.MULTIPLY, BlendOperator.GATE
CHANNELS = 8
STYLE_OF = {
    ADD: GerminationStyle.LINEAR_ADD,
    MULTIPLY: GerminationStyle.LINEAR_MULTIPLY,
    GATE: GerminationStyle.GATED_GATE,
}
READY = Rules(GateRules(min_training_epochs=0))
CALM = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=2.0)
MATRIX = [(t, b, operator) for t, names in BLUEPRINTS_OF_TOPOLOGY.items() for b in names for operator in BlendOperator]
LEARNING = [case for case in MATRIX if case[1] is not Blueprint.NOOP]


def case_id(value: object) -> str | None:
    return value.name.lower() if isinstance(value, Topology | Blueprint | BlendOperator | Stage) else None


class Host(nn.Module):
    """stem, [slot r0c0], tanh, deep, [slot r0c1], norm, tanh, head, mean over positions."""

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        image = topology is IMAGES
        self.stem = nn.Conv2d(2, CHANNELS, 3, padding=1) if image else nn.Linear(2, CHANNELS)
        self.norm = nn.BatchNorm2d(CHANNELS) if image else nn.LayerNorm(CHANNELS)
        self.deep = nn.Conv2d(CHANNELS, CHANNELS, 1) if image else nn.Linear(CHANNELS, CHANNELS)
        self.head = nn.Conv2d(CHANNELS, 3, 1) if image else nn.Linear(CHANNELS, 3)
        self.positions = {IMAGES: (2, 3), SEQUENCES: (1,), FEATURES: ()}[topology]

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.norm(self.deep(self.stem(x).tanh())).tanh())
        return out.mean(self.positions) if self.positions else out


def make_host(topology: Topology, seed: int = 1) -> Host:
    with seeded_initialisation(seed):
        return Host(topology)


def make_model(topology: Topology, slots: dict[str, str] | None = None, **options: Any) -> MorphogeneticModel:
    x = inputs(topology, 2)
    return MorphogeneticModel.wrap(make_host(topology), slots or {"r0c0": "stem"}, x, rules=READY, **options)


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def inputs(topology: Topology, batch: int = 4, extent: tuple[int, ...] | None = None, seed: int = 0) -> Tensor:
    """Input of :class:`Host`; ``extent`` is the height and width, or the length."""
    positions = {IMAGES: (4, 4), SEQUENCES: (5,), FEATURES: ()}[topology] if extent is None else extent
    size = (batch, 2, *positions) if topology is IMAGES else (batch, *positions, 2)
    return noise(*size, seed=seed)


def features(topology: Topology, channels: int = CHANNELS, batch: int = 4, seed: int = 0) -> Tensor:
    """Input of a seed."""
    size = {IMAGES: (batch, channels, 4, 4), SEQUENCES: (batch, 5, channels), FEATURES: (batch, channels)}[topology]
    return noise(*size, seed=seed)


def lead(
    model: MorphogeneticModel,
    stage: Stage,
    blueprint: Blueprint | str = Blueprint.NORM,
    operator: BlendOperator = ADD,
    *,
    slot: str = "r0c0",
    alpha: float = 1.0,
) -> SeedCell:
    """Germinate in ``slot`` and lead the seed to ``stage``; in BLENDING to ``alpha``, 0 is before the ramp."""
    assert model.germinate(slot, blueprint, style=STYLE_OF[operator], tempo=1, target=alpha or 1.0)
    for target in (Stage.TRAINING, Stage.BLENDING):
        if model.cell(slot).stage is not stage:
            assert model.advance(slot, CALM)
            assert model.cell(slot).stage is target
    if stage is Stage.BLENDING and alpha:
        model.tick()
    return model.cell(slot)


def awaken(cell: SeedCell, size: float = 0.5, seed: int = 3) -> SeedCell:
    """Random scale and gate, so that the seed has an effect and the gate depends on the features."""
    generator = torch.Generator().manual_seed(seed)
    moved = [cell.seed.scale] if hasattr(cell.seed, "scale") else []
    moved += list(cell.gate.parameters()) if cell.gate is not None else []
    with torch.no_grad():
        for parameter in moved:
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return cell


def born(shape: SlotShape, blueprint: Blueprint | str, seed: int = 5) -> nn.Module:
    """A newborn seed, its inner weights from ``seed``."""
    with seeded_initialisation(seed):
        return build_seed(blueprint.id if isinstance(blueprint, Blueprint) else blueprint, shape)


def made_gate(shape: SlotShape, seed: int = 5) -> GateNetwork:
    with seeded_initialisation(seed):
        return GateNetwork(shape)


def loss(outputs: Tensor) -> Tensor:
    """Cross-entropy with fixed labels."""
    return nn.functional.cross_entropy(outputs.float(), torch.arange(len(outputs)) % 3)


def backward(module: nn.Module, x: Tensor) -> Tensor:
    """Loss of ``module`` on ``x`` after a backward pass from zero gradients."""
    module.zero_grad()
    value = loss(module(x))
    value.backward()
    return value


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def same_tensors(left: dict[str, Tensor | None], right: dict[str, Tensor | None]) -> bool:
    """Whether both hold the same tensors under the same names, bit by bit, and the same gaps."""
    if left.keys() != right.keys():
        return False
    pairs = ((left[name], right[name]) for name in left)
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)
