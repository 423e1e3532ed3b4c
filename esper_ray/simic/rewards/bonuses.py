"""Pay for working together, and pay that comes later."""

from dataclasses import dataclass
from math import tanh

from esper_ray.leyline.config.reward import RewardConfig


def synergy(interaction_sum: float, weight: float) -> float:
    """For seeds that achieve more together than each alone; 0 for those that do not."""
    return weight * tanh(0.5 * interaction_sum) if interaction_sum > 0 else 0.0


def hindsight_credit(boost: float, improvement: float, weight: float) -> float:
    """For a seed that helped another one, when that one is committed.

    Args:
        boost: interaction of the two in percentage points.
        improvement: what the committed seed brings.
    """
    return weight * tanh(0.1 * boost * improvement) if boost > 0 and improvement > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Drip:
    """A part of a commitment's bonus that is paid epoch by epoch, in proportion to what the seed contributes."""

    slot_id: str
    seed_id: str
    pool: float
    scale: float
    """Reward per percentage point and epoch."""


def drip_of(slot_id: str, seed_id: str, bonus: float, epochs_left: int, config: RewardConfig) -> Drip:
    """The later part of ``bonus``, for the rest of an episode.

    Args:
        epochs_left: at the commitment.
    """
    pool = bonus * config.drip_fraction
    return Drip(slot_id, seed_id, pool, pool / max(epochs_left, config.min_drip_epochs))


def epoch_drip(scale: float, contribution: float, most: float, negative_ratio: float) -> float:
    """One epoch's part, between ``-negative_ratio * most`` and ``most``."""
    return max(-negative_ratio * most, min(most, scale * contribution))
