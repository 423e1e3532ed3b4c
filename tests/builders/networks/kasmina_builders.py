"""Small hosts, organisms in any stage, and a plain training loop."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.lifecycle.gates import GateRules
from esper_ray.kasmina.lifecycle.reducer import Advance, Command, Fossilize, Rules
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.config.host import CNNHostConfig
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import Stage

HOST = CNNHostConfig(base_channels=4, blocks=3, pools=1, kernel_size=3)
SLOTS = ("r0c0", "r0c1", "r1c0")
HOST_OPTIONS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
SEED_OPTIONS = {"lr": 0.03, "weight_decay": 0.0}
WORTHY = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=2.0)
READY = Rules(GateRules(min_training_epochs=0))
PATH = {
    Stage.TRAINING: Advance(),
    Stage.BLENDING: Advance(),
    Stage.HOLDING: Advance(),
    Stage.FOSSILIZED: Fossilize(),
}


def images(count: int, seed: int = 0, size: tuple[int, int] = (8, 8), channels: int = 1) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def make_host(seed: int = 1) -> nn.Module:
    with seeded_initialisation(seed):
        return build_host(HOST, (1, 8, 8), classes=3).module


def make_model(slots: tuple[str, ...] = SLOTS, host_seed: int = 1, **options: Any) -> MorphogeneticModel:
    with seeded_initialisation(host_seed):
        spec = build_host(HOST, (1, 8, 8), classes=3)
    modules = {slot: spec.slot_modules[slot] for slot in slots}
    return MorphogeneticModel.wrap(spec.module, modules, images(2), rules=READY, **options)


def make_organism(
    seed: int = 7,
    slots: tuple[str, ...] = SLOTS,
    host_seed: int = 1,
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
    **options: Any,
) -> Organism:
    model = make_model(slots, host_seed, seed=seed, **options)
    host = HOST_OPTIONS if optimizer is torch.optim.SGD else {"lr": 0.01}
    return Organism(model, GrowingOptimizer(model, optimizer, seeds={**SEED_OPTIONS}, **host))


def germinate(organism: Organism, slot: str, blueprint: str = "conv_light", tempo: int = 1) -> None:
    assert organism.model.germinate(slot, blueprint, style="linear_add", tempo=tempo)


def order(organism: Organism, slot: str, command: Command) -> None:
    assert organism.model.execute(slot, command, WORTHY)


def grow(organism: Organism, slot: str, stage: Stage, blueprint: str = "conv_light") -> None:
    """Germinate in ``slot`` and lead the seed to ``stage`` (amplitude 1 from HOLDING on)."""
    germinate(organism, slot, blueprint)
    for target, command in PATH.items():
        if organism.model.states[slot].stage is stage:
            break
        order(organism, slot, command)
        if target is Stage.BLENDING:
            organism.model.tick()


def train(organism: Organism, steps: int, seed: int = 3) -> list[float]:
    """Losses of ``steps`` optimizer steps on noise with random labels."""
    generator = torch.Generator().manual_seed(seed)
    organism.model.train()
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 1, 8, 8, generator=generator)
        y = torch.randint(0, 3, (8,), generator=generator)
        organism.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(organism.model(x), y)
        loss.backward()
        organism.model.incubate(lambda x=x, y=y: nn.functional.cross_entropy(organism.model(x), y))
        organism.optimizer.step()
        losses.append(loss.item())
    return losses


def wake(seed: nn.Module, scale: float = 0.5) -> None:
    """Give a newborn seed a change that is not zero."""
    with torch.no_grad():
        seed.scale.fill_(scale)


def fingerprint(organism: Organism) -> dict[str, Any]:
    """Content of a snapshot, optimizer groups and trainable parameters, in comparable form."""
    snapshot = organism.snapshot()
    named = dict(organism.model.named_parameters())
    return {
        "growth": snapshot.growth,
        "groups": {
            name: [next(n for n, p in named.items() if p is member) for member in organism.optimizer.group(name)]
            for name in organism.optimizer.group_names
        },
        "tensors": {name: tensor.tolist() for name, tensor in snapshot.tensors.items()},
        "optimizer": {
            name: {key: value.tolist() if isinstance(value, Tensor) else value for key, value in state.items()}
            for name, state in snapshot.optimizer.items()
        },
        "stages": {slot: organism.model.cell(slot).stage for slot in organism.model.slot_ids},
        "trainable": [name for name, p in organism.model.named_parameters() if p.requires_grad],
    }


def named(**modules: nn.Module) -> nn.Sequential:
    """A chain of modules by name."""
    return nn.Sequential(OrderedDict(modules))
