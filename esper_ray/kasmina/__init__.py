"""Kasmina: the growing network. It holds the mechanism; policies decide *when* to use it.

    from esper_ray.kasmina import GrowingOptimizer, MorphogeneticModel

:mod:`~esper_ray.kasmina.model` is the place to start. Names are imported when they are first used, so
that the lifecycle, which needs no torch, can be imported without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper_ray.kasmina.averaging import AveragedGrowth
    from esper_ray.kasmina.blueprints import SlotShape, blueprint_names, register_blueprint, unregister_blueprint
    from esper_ray.kasmina.export.checkpoints import TopologyError
    from esper_ray.kasmina.lifecycle.gates import GateRules
    from esper_ray.kasmina.lifecycle.reducer import Rules
    from esper_ray.kasmina.model import LifecycleError, MorphogeneticModel
    from esper_ray.kasmina.modules import seeded_initialisation
    from esper_ray.kasmina.network.cell import Incubation
    from esper_ray.kasmina.network.records import GrowthOptions, Outcome, SlotEvent
    from esper_ray.kasmina.network.spans.finding import Span
    from esper_ray.kasmina.network.spans.regions import SpanError
    from esper_ray.kasmina.network.spans.search import find_spans
    from esper_ray.kasmina.optimizer import GrowingOptimizer
    from esper_ray.kasmina.organism import Organism
    from esper_ray.kasmina.ranks.exchange import RanksDifferError
    from esper_ray.kasmina.ranks.wrapping import leave_out_seeds
    from esper_ray.leyline.blueprints import Topology
    from esper_ray.leyline.records import SeedMeasurements

_HOMES = {
    "AveragedGrowth": "esper_ray.kasmina.averaging",
    "SlotShape": "esper_ray.kasmina.blueprints",
    "blueprint_names": "esper_ray.kasmina.blueprints",
    "register_blueprint": "esper_ray.kasmina.blueprints",
    "unregister_blueprint": "esper_ray.kasmina.blueprints",
    "Incubation": "esper_ray.kasmina.network.cell",
    "TopologyError": "esper_ray.kasmina.export.checkpoints",
    "GateRules": "esper_ray.kasmina.lifecycle.gates",
    "GrowthOptions": "esper_ray.kasmina.network.records",
    "Outcome": "esper_ray.kasmina.network.records",
    "SlotEvent": "esper_ray.kasmina.network.records",
    "Span": "esper_ray.kasmina.network.spans.finding",
    "SpanError": "esper_ray.kasmina.network.spans.regions",
    "find_spans": "esper_ray.kasmina.network.spans.search",
    "seeded_initialisation": "esper_ray.kasmina.modules",
    "Rules": "esper_ray.kasmina.lifecycle.reducer",
    "LifecycleError": "esper_ray.kasmina.model",
    "MorphogeneticModel": "esper_ray.kasmina.model",
    "GrowingOptimizer": "esper_ray.kasmina.optimizer",
    "Organism": "esper_ray.kasmina.organism",
    "RanksDifferError": "esper_ray.kasmina.ranks.exchange",
    "leave_out_seeds": "esper_ray.kasmina.ranks.wrapping",
    "SeedMeasurements": "esper_ray.leyline.records",
    "Topology": "esper_ray.leyline.blueprints",
}

__all__ = [
    "AveragedGrowth",
    "GateRules",
    "GrowingOptimizer",
    "GrowthOptions",
    "Incubation",
    "LifecycleError",
    "MorphogeneticModel",
    "Organism",
    "Outcome",
    "RanksDifferError",
    "Rules",
    "SeedMeasurements",
    "SlotEvent",
    "SlotShape",
    "Span",
    "SpanError",
    "Topology",
    "TopologyError",
    "blueprint_names",
    "find_spans",
    "leave_out_seeds",
    "register_blueprint",
    "seeded_initialisation",
    "unregister_blueprint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
