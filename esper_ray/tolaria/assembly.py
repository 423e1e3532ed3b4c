"""From configuration to a fresh organism, as a pure function of a seed."""

import numpy as np
import torch

from esper_ray.kasmina.blueprints import CNN_BLUEPRINTS, seeded_initialisation
from esper_ray.kasmina.gates import Gate, GateRules
from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.lifecycle import Rules
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.optimizer import GroupSettings
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import BlendOperator, Blueprint, GerminationStyle
from esper_ray.leyline.config import GrowthConfig, RunConfig
from esper_ray.leyline.legality import Limits
from esper_ray.tolaria.data import Dataset
from esper_ray.tolaria.measurement import MAX_PLAYERS


class GrowthError(ValueError):
    """A growth configuration that asks for what does not exist."""


def derived_seed(*key: int) -> int:
    """One 32-bit seed from several integers, well mixed; equal keys give equal seeds."""
    return int(np.random.SeedSequence(list(key)).generate_state(1)[0])


def build_organism(config: RunConfig, data: Dataset, device: torch.device, seed: int) -> Organism:
    """A fresh host with empty slots, its weights drawn from ``seed``."""
    with seeded_initialisation(derived_seed(seed, 0)):
        spec = build_host(config.host, data.channels, data.classes)
    host = spec.module.to(device)
    example = data.normalised(data.train.images[:2])
    slots = {slot: spec.slot_modules[slot] for slot in config.growth.slots}
    model = MorphogeneticModel.wrap(host, slots, example).to(device)
    training = config.training
    return Organism(
        model,
        GroupSettings(training.lr, training.seed_lr, training.momentum, training.weight_decay),
        lifecycle_rules(config.growth),
        derived_seed(seed, 2),
        freeze_fossils=config.growth.freeze_fossils,
        incubation_bound=config.growth.incubation.bound,
    )


def lifecycle_rules(growth: GrowthConfig) -> Rules:
    """The part of the configuration that the lifecycle reads."""
    gates = GateRules(
        strict=growth.gates == "strict",
        min_training_epochs=growth.min_training_epochs,
        min_blending_epochs=growth.min_blending_epochs,
        min_training_improvement_pp=growth.min_training_improvement_pp,
        min_gradient_ratio=growth.min_gradient_ratio,
        min_gradient_health=growth.min_gradient_health,
        min_contribution_pp=growth.min_contribution_pp,
    )
    return Rules(gates, frozenset(Gate[name.upper()] for name in growth.auto_forward), growth.embargo_ticks)


def growth_limits(growth: GrowthConfig) -> Limits:
    """The part of the configuration that legality reads.

    Raises:
        GrowthError: if a blueprint or style is asked for that images cannot have yet, or more seeds could
            live at a time than are measured.
    """
    most = min(growth.max_seeds or len(growth.slots), len(growth.slots))
    if most > MAX_PLAYERS:
        raise GrowthError(
            f"{len(growth.slots)} slots could hold {most} seeds at a time, but the contributions of at most "
            f"{MAX_PLAYERS} can be measured; set growth.max_seeds to {MAX_PLAYERS} or less"
        )
    blueprints = frozenset(Blueprint[name.upper()] for name in growth.blueprints)
    styles = frozenset(GerminationStyle[name.upper()] for name in growth.styles)
    for blueprint in sorted(blueprints - CNN_BLUEPRINTS.keys()):
        available = ", ".join(known.id for known in CNN_BLUEPRINTS)
        raise GrowthError(f"blueprint {blueprint.id!r} is not available yet; use some of {available}")
    for style in sorted(styles):
        if style.operator is not BlendOperator.ADD:
            raise GrowthError(f"style {style.id!r} is not available yet; use linear_add or sigmoid_add")
    return Limits(
        slots=growth.slots,
        blueprints=blueprints,
        styles=styles,
        max_seeds=growth.max_seeds,
        manual_advance=set(growth.auto_forward) != {"g1", "g2", "g3"},
    )
