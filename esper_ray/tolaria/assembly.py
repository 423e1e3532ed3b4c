"""Assembly of a fresh organism from a configuration and a seed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from esper_ray.kasmina.export.host_layers import host_layers
from esper_ray.kasmina.hosts import HostSpec, build_host
from esper_ray.kasmina.lifecycle.gates import Gate, GateRules
from esper_ray.kasmina.lifecycle.reducer import Rules
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.cell import Incubation, SeedCell
from esper_ray.kasmina.network.newborn import check_newborn
from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import TEMPO_TICKS, GerminationStyle
from esper_ray.leyline.blueprints import BLUEPRINTS_OF_TOPOLOGY, Topology
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.growth import GrowthConfig
from esper_ray.leyline.config.host import AnyHostConfig, OwnHostConfig
from esper_ray.leyline.config.run import RunConfig, TrainingConfig
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.legality import Limits
from esper_ray.tolaria.compilation import compile_blocks
from esper_ray.tolaria.data import Dataset
from esper_ray.tolaria.own_hosts import build_own_host
from esper_ray.tolaria.stepping.step_runners import CapturedRunner, EagerRunner, StepRunner
from esper_ray.tolaria.training import EpochSettings, Trainer

AnyData = Dataset[Any]
HostBuilder = Callable[[AnyData], HostSpec]
"""Builder of a fresh host for a data set, initialised from torch's global generator."""


ADAM_BETA2 = 0.999
LIVE_EPOCHS = 2
"""Least number of epochs that must be left for the birth of a live seed."""


class GrowthError(UserError, ValueError):
    """A growth configuration with slots that do not exist, or blueprints that do not fit."""

    remedy = "Choose slots and blueprints that fit the host, as the message lists them."


@lru_cache(1024)
def derived_seed(*key: int) -> int:
    """One 32-bit seed from several integers, well mixed; equal keys give equal seeds."""
    return int(np.random.SeedSequence(list(key)).generate_state(1)[0])


@dataclass(frozen=True, slots=True)
class ConfiguredHost:
    """Builder of the host of a configuration, for any data set. It can be pickled."""

    config: AnyHostConfig
    most_slots: int = 3
    """Greatest number of slots that are found in an own host which names none."""

    @classmethod
    def of(cls, config: RunConfig) -> "ConfiguredHost":
        """The builder for a run."""
        return cls(config.host, len(config.growth.slots))

    def __call__(self, data: AnyData) -> HostSpec:
        if isinstance(self.config, OwnHostConfig):
            return build_own_host(self.config, data, self.most_slots)
        return build_host(self.config, data.example_shape, data.classes)


def build_organism(
    config: RunConfig, data: AnyData, device: torch.device, seed: int, host: HostBuilder | None = None
) -> Organism:
    """A fresh host with empty slots, its weights drawn from ``seed``.

    Args:
        host: builder of the host; default: the host of the configuration.

    Raises:
        GrowthError: if the host lacks a slot of the configuration.
        PluginError: if an own host cannot be built.
        ValueError: if the host cannot work on the data.
    """
    with seeded_initialisation(derived_seed(seed, 0)):
        spec = (host or ConfiguredHost.of(config))(data)
    for slot in config.growth.slots:
        if slot not in spec.places:
            raise GrowthError(f"growth.slots: {unknown_name_message('slot', slot, list(spec.places))}")
    growth, training = config.growth, config.training
    model = MorphogeneticModel.wrap(
        spec.module.to(device),
        {slot: spec.places[slot] for slot in growth.slots},
        data.prepared(data.train, 0, 2)[0],
        rules=lifecycle_rules(growth),
        options=growth_options(growth),
        incubation=Incubation(growth.incubation.method, growth.incubation.weight, growth.incubation.bound, clip=None),
        seed=derived_seed(seed, 2),
        causal=spec.causal,
    )
    return Organism(model, _optimizer(model, training, device))


def slot_topologies(config: RunConfig, data: AnyData) -> tuple[Topology, ...]:
    """Distinct topologies of the slots of ``config``, in the order of the slots."""
    model = build_organism(config, data, torch.device("cpu"), seed=0).model
    return tuple(dict.fromkeys(model.cell(slot).shape.topology for slot in model.slot_ids))


def host_record(config: RunConfig, data: AnyData) -> dict[str, Any]:
    """Record of kind ``host``: parameters and layers of the host of ``config``."""
    organism = build_organism(config, data, torch.device("cpu"), seed=0)
    layers = host_layers(organism.model, data.prepared(data.train, 0, 2)[0])
    rows = [asdict(layer) | {"shape": list(layer.shape)} for layer in layers]
    return {"kind": "host", "parameters": organism.model.host_parameters, "layers": rows}


def _optimizer(model: MorphogeneticModel, training: TrainingConfig, device: torch.device) -> GrowingOptimizer:
    options: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay}
    options |= {"fused": True} if device.type == "cuda" else {"foreach": True}
    seeds = {"lr": training.seed_lr, "weight_decay": 0.0}
    if training.optimizer == "sgd":
        return GrowingOptimizer(model, torch.optim.SGD, seeds=seeds, **options, momentum=training.momentum)
    options |= {"betas": (training.momentum, ADAM_BETA2), "capturable": device.type == "cuda"}
    return GrowingOptimizer(model, torch.optim.AdamW, seeds=seeds, **options)


def build_trainer(config: RunConfig, organism: Organism, data: AnyData) -> Trainer:
    """The trainer of ``organism`` for an episode, compiled or captured as configured."""
    training = config.training
    settings = EpochSettings(
        training.host_grad_clip, training.seed_grad_clip, config.growth.incubation.share, training.precision
    )
    runner: StepRunner = EagerRunner()
    if training.compile_mode == "captured":
        runner = CapturedRunner()
    elif training.compile_mode != "off":
        compile_blocks(organism.model, training.compile_mode)
    return Trainer(organism, data, settings, runner)


def shortest_life(model: MorphogeneticModel) -> int:
    """Least number of epochs that a newborn seed needs for full amplitude.

    One that is born live has it at once; two epochs are enough to see what it contributes.
    """
    rules = model.growth.rules
    if rules.live_widenings and all(at.region is not None for at in model.attachments.values()):
        return LIVE_EPOCHS
    gates = rules.gates
    to_training, to_holding = (gate not in rules.auto_forward for gate in (Gate.G1, Gate.G3))  # an action, an epoch
    ramp = min(TEMPO_TICKS) + to_holding
    blending = max(ramp, gates.min_blending_epochs + 1) if gates.strict else ramp
    return gates.min_training_epochs + blending + to_training


def shortest_decision(model: MorphogeneticModel) -> int:
    """Least number of epochs for birth and commitment of a seed by actions.

    The present epoch counts. A seed at full amplitude is committed before an epoch; one that is born live can be after
    its first.
    """
    live = model.growth.rules.live_widenings and all(at.region is not None for at in model.attachments.values())
    return LIVE_EPOCHS if live else shortest_life(model) + 1


def least_epochs(growth: GrowthConfig, model: MorphogeneticModel, epochs: int | None) -> int:
    """Least number of epochs that must be left for a birth.

    It is 0 in episodes that are too short for any seed: a trial shows births, too.
    """
    needed = shortest_decision(model)
    if growth.unfinished_births == "allow" or epochs is None or epochs < needed:
        return 0
    return needed


def growth_options(growth: GrowthConfig) -> GrowthOptions:
    """Growth options of the configuration: start and end of seeds."""
    starts = {style: getattr(growth.initialisation, style.id) for style in GerminationStyle}
    return GrowthOptions(growth.freeze_fossils, starts, growth.initialisation.widen, growth.own_blueprints)


def lifecycle_rules(growth: GrowthConfig) -> Rules:
    """Lifecycle rules of the configuration."""
    gates = GateRules(
        strict=growth.gates == "strict",
        min_training_epochs=growth.min_training_epochs,
        min_blending_epochs=growth.min_blending_epochs,
        min_training_improvement_pp=growth.min_training_improvement_pp,
        min_gradient_ratio=growth.min_gradient_ratio,
        min_gradient_health=growth.min_gradient_health,
        min_contribution_pp=growth.min_contribution_pp,
    )
    automatic = frozenset(Gate[name.upper()] for name in growth.auto_forward)
    return Rules(gates, automatic, growth.embargo_ticks, growth.widening_births == "live")


def growth_limits(growth: GrowthConfig, model: MorphogeneticModel, epochs: int | None = None) -> Limits:
    """Limits of the configuration for the legality of actions.

    Args:
        epochs: length of an episode; ``None``: births that cannot be finished are prevented elsewhere.

    Raises:
        GrowthError: if a configured blueprint does not fit some slot of ``model``. So no legal action fails later.
    """
    blueprints, own = growth.allowed_blueprints, growth.own_blueprints
    for slot in growth.slots:
        topology = model.cell(slot).shape.topology
        fitting = BLUEPRINTS_OF_TOPOLOGY[topology]
        strange = blueprints.difference(fitting, own) if model.attachments[slot].region is None else frozenset()
        for blueprint in sorted(strange):
            raise GrowthError(
                f"slot {slot} carries {topology.value}, which have no blueprint {blueprint.id!r}; "
                f"growth.blueprints may name {', '.join(candidate.id for candidate in fitting)}"
            )
        for blueprint in sorted(blueprints):
            _check_fits(slot, own.get(blueprint, blueprint.id), model.cell(slot))
        for name in growth.styles:
            _check_style(slot, GerminationStyle.from_id(name), model.cell(slot))
    return Limits(
        slots=growth.slots,
        blueprints=blueprints,
        styles=frozenset(GerminationStyle.from_id(name) for name in growth.styles),
        max_seeds=growth.max_seeds,
        manual_advance=set(growth.auto_forward) != {"g1", "g2", "g3"},
        own_blueprints=own,
        target_parameters=growth.target_parameters,
        host_parameters=model.host_parameters,
        shortest_life=least_epochs(growth, model, epochs),
        places=tuple(model.attachments[slot].position for slot in growth.slots),
    )


def _check_fits(slot: str, blueprint: str, cell: SeedCell) -> None:
    with seeded_initialisation(0):
        try:
            seed = cell.newborn(blueprint).to(cell.alpha)
            if isinstance(seed, Widening):
                seed.start_at_output()
            check_newborn(slot, seed, cell)
        except UserError:
            raise
        except ValueError as error:
            raise GrowthError(f"growth.blueprints: {blueprint!r} does not fit: {error}") from error


def _check_style(slot: str, style: GerminationStyle, cell: SeedCell) -> None:
    try:
        cell.check_style(style)
    except ValueError as error:
        raise GrowthError(f"growth.styles: slot {slot}: {error}") from error
