"""Costs of growth per step, independent of the cause."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import AMPLIFIED, Stage

SIMPLIFIED_COST = -0.01
"""``simplified``: cost of any operation except WAIT."""


def linear_rent(overhead: float, config: RewardConfig) -> float:
    """Price of ``overhead`` extra parameters for one step, in shares of the budget."""
    return config.param_penalty_weight * overhead / config.param_budget


def growth(overhead: float, host_parameters: float, config: RewardConfig) -> float:
    """Extra parameters over those of the host, or over the floor for tiny hosts."""
    return overhead / max(host_parameters, config.rent_host_params_floor)


def logarithmic_rent(overhead: float, host_parameters: float, config: RewardConfig) -> float:
    """Price of ``overhead`` extra parameters for one step: concave in the growth, and capped."""
    if host_parameters <= 0 or overhead <= 0:
        return 0.0
    return min(config.rent_weight * log(1.0 + growth(overhead, host_parameters, config)), config.max_rent)


def shock(squared_changes: float, config: RewardConfig) -> float:
    """Cost of abrupt changes of amplitude, at most 0.

    Args:
        squared_changes: see :func:`squared_change`, summed over slots.
    """
    if squared_changes <= 0 or config.disable_anti_gaming:
        return 0.0
    return max(-config.alpha_shock_coef * squared_changes, -config.alpha_shock_cap)


def occupancy(live: int, committed: int, config: RewardConfig) -> float:
    """Price of the seeds beyond the free ones for one step."""
    return config.seed_occupancy_cost * max(0, live + committed - config.free_slots)


def upkeep(committed: int, config: RewardConfig) -> float:
    """Price of the committed seeds for one step."""
    return config.fossilized_maintenance_cost * committed


@dataclass(frozen=True, slots=True)
class Load:
    """Load of one slot."""

    stage: Stage
    alpha: float
    parameters: int


def effective_parameters(loads: Mapping[str, Load], host_parameters: int, base_ratio: float) -> float:
    """Parameters of amplified seeds, in proportion to their amplitude, plus a base per slot."""
    amplified = [load for load in loads.values() if load.stage in AMPLIFIED]
    return sum(base_ratio * host_parameters + load.alpha * load.parameters for load in amplified)


def squared_change(
    alpha_before: float, alpha_after: float, parameters_before: int, host_parameters: float, floor: int
) -> float:
    """Squared change of a slot's amplitude, weighted by its parameters.

    The weight is its former parameters over those of the host.

    A newborn is free; a removed seed is charged once.
    """
    if host_parameters <= 0 or parameters_before <= 0:
        return 0.0
    return (alpha_after - alpha_before) ** 2 * parameters_before / max(host_parameters, floor)
