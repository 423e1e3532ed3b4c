"""Bonuses for synergy and deferred pay."""

from dataclasses import dataclass
from math import tanh

from esper_ray.leyline.config.reward import RewardConfig


def synergy(interaction_sum: float, weight: float) -> float:
    """Bonus for a positive interaction of seeds; otherwise 0."""
    return weight * tanh(0.5 * interaction_sum) if interaction_sum > 0 else 0.0


def hindsight_credit(boost: float, improvement: float, weight: float) -> float:
    """Bonus of a seed whose boost preceded another seed's commitment.

    Args:
        boost: interaction of the two in percentage points.
        improvement: of the committed seed.
    """
    return weight * tanh(0.1 * boost * improvement) if boost > 0 and improvement > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Drip:
    """Deferred part of a commitment bonus, paid per epoch by contribution."""

    slot_id: str
    seed_id: str
    pool: float
    scale: float
    """Reward per percentage point and epoch."""


def deferred_bonus(slot_id: str, seed_id: str, bonus: float, epochs_left: int, config: RewardConfig) -> Drip:
    """The deferred part of ``bonus`` for the rest of an episode.

    Args:
        epochs_left: at the commitment.
    """
    pool = bonus * config.drip_fraction
    return Drip(slot_id, seed_id, pool, pool / max(epochs_left, config.min_drip_epochs))


def epoch_drip(scale: float, contribution: float, most: float, negative_ratio: float) -> float:
    """Pay of one epoch, between ``-negative_ratio * most`` and ``most``."""
    return max(-negative_ratio * most, min(most, scale * contribution))
