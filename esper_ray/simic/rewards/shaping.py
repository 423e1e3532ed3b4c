"""Stage potentials and potential-based shaping."""

from types import MappingProxyType

from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import Stage

STAGE_POTENTIALS = MappingProxyType(
    {
        Stage.GERMINATED: 1.0,
        Stage.TRAINING: 2.0,
        Stage.BLENDING: 3.5,
        Stage.HOLDING: 5.5,
        Stage.FOSSILIZED: 6.0,
    }
)
"""Potential of a seed's stage; 0 for all others."""


def stage_potential(stage: Stage) -> float:
    """Potential of ``stage`` alone."""
    return STAGE_POTENTIALS.get(stage, 0.0)


def seed_potential(stage: Stage, ticks: int, config: RewardConfig) -> float:
    """Potential of one slot: its stage, plus a bonus for dwell. The bonus grows with the epochs in the stage."""
    return stage_potential(stage) + min(config.epoch_progress_bonus * ticks, config.max_progress_bonus)


def shaping(before: float, after: float, gamma: float, weight: float) -> float:
    """Potential-based shaping ``weight (gamma after - before)``, which preserves optimal policies.

    Source: Ng, Harada and Russell, Policy invariance under reward transformations (1999).
    """
    return weight * (gamma * after - before)


def stage_bonus(
    stage: Stage, ticks: int, previous: Stage, previous_ticks: int, gamma: float, config: RewardConfig
) -> float:
    """Shaping of a single slot since the previous epoch or stage."""
    before = (
        seed_potential(previous, previous_ticks, config) if ticks == 0 else seed_potential(stage, ticks - 1, config)
    )
    return shaping(before, seed_potential(stage, ticks, config), gamma, config.pbrs_weight)
