"""Kasmina: the growing network. Mechanism only; nothing here decides *when*.

    from esper_ray.kasmina import GrowingOptimizer, MorphogeneticModel

:mod:`~esper_ray.kasmina.model` is the place to start. Names are imported when they are first used, so
that the lifecycle, which needs no torch, can be imported without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper_ray.kasmina.blueprints import SlotShape, blueprint_names, register_blueprint, unregister_blueprint
    from esper_ray.kasmina.cell import Incubation
    from esper_ray.kasmina.checkpoints import TopologyError
    from esper_ray.kasmina.gates import GateRules
    from esper_ray.kasmina.growth import GrowthOptions, Outcome, SlotEvent
    from esper_ray.kasmina.initialisation import seeded_initialisation
    from esper_ray.kasmina.lifecycle import Rules
    from esper_ray.kasmina.model import LifecycleError, MorphogeneticModel
    from esper_ray.kasmina.optimizer import GrowingOptimizer
    from esper_ray.kasmina.organism import Organism

_HOMES = {
    "SlotShape": "blueprints",
    "blueprint_names": "blueprints",
    "register_blueprint": "blueprints",
    "unregister_blueprint": "blueprints",
    "Incubation": "cell",
    "TopologyError": "checkpoints",
    "GateRules": "gates",
    "GrowthOptions": "growth",
    "Outcome": "growth",
    "SlotEvent": "growth",
    "seeded_initialisation": "initialisation",
    "Rules": "lifecycle",
    "LifecycleError": "model",
    "MorphogeneticModel": "model",
    "GrowingOptimizer": "optimizer",
    "Organism": "organism",
}

__all__ = [
    "GateRules",
    "GrowingOptimizer",
    "GrowthOptions",
    "Incubation",
    "LifecycleError",
    "MorphogeneticModel",
    "Organism",
    "Outcome",
    "Rules",
    "SlotEvent",
    "SlotShape",
    "TopologyError",
    "blueprint_names",
    "register_blueprint",
    "seeded_initialisation",
    "unregister_blueprint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
