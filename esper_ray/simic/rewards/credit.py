"""Credit of a seed: attribution, its discounts, and escrow."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, sqrt
from types import MappingProxyType

from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import AMPLIFIED, Stage

LARGEST_EXPONENT = 700.0
"""Largest argument of the exponential function."""
RANSOM_CONTRIBUTION_PP, RANSOM_IMPROVEMENT_PP = 0.1, -0.2
"""Thresholds of contribution and joint improvement that define a ransom."""
LEAST_SUSPECT_PP = 1.0
"""Contribution above which a claim may be doubted."""


def improvement_discount(improvement: float | None, steepness: float) -> float:
    """Factor in (0, 1] that falls from 1 as the joint improvement becomes negative."""
    if improvement is None or improvement >= 0:
        return 1.0
    return 1.0 / (1.0 + exp(min(-steepness * improvement, LARGEST_EXPONENT)))


def suspicion(contribution: float, improvement: float, discount: float, config: RewardConfig) -> float:
    """Charge, at most 0, for a claim far above the joint improvement."""
    most = -config.prune_good_seed_penalty
    if config.disable_anti_gaming or contribution <= LEAST_SUSPECT_PP or discount < 0.5:
        return 0.0
    if improvement > max(config.improvement_safe_threshold, 1e-8):
        threshold = config.hacking_ratio_threshold
        excess = (contribution / improvement - threshold) / threshold
        return -min(most, 0.1 * excess) if excess > 0 else 0.0
    return -most * min(1.0, contribution / 10.0)


def is_ransom(contribution: float | None, improvement: float | None) -> bool:
    """Whether a seed has a high contribution although the joint improvement is negative."""
    if contribution is None or improvement is None:
        return False
    return contribution > RANSOM_CONTRIBUTION_PP and improvement < RANSOM_IMPROVEMENT_PP


def timing_discount(germination_epoch: int, warmup_epochs: int, floor: float) -> float:
    """Factor on an early seed's pay, linear from ``floor`` at epoch 0 to 1."""
    if warmup_epochs <= 0 or germination_epoch >= warmup_epochs:
        return 1.0
    return floor + (1.0 - floor) * germination_epoch / warmup_epochs


def harmonic(a: float, b: float) -> float:
    """Harmonic mean of two positive numbers, 0 if either is not positive."""
    return 0.0 if a <= 0 or b <= 0 else 2.0 * a * b / max(a + b, 1e-8)


def minimum(a: float, b: float) -> float:
    """The smaller of two positive numbers, 0 if either is not positive."""
    return 0.0 if a <= 0 or b <= 0 else min(a, b)


def geometric(a: float, b: float) -> float:
    """Geometric mean of two positive numbers, 0 if either is not positive."""
    return 0.0 if a <= 0 or b <= 0 else sqrt(a * b)


COMBINATIONS = MappingProxyType({"harmonic": harmonic, "minimum": minimum})


def attributed_value(
    progress: float | None, contribution: float, combine: Callable[[float, float], float] = harmonic
) -> float:
    """Part of a non-negative contribution that the accuracy gained since germination supports.

    Args:
        progress: points gained since germination; without it half of the contribution counts.
        combine: of progress and contribution, where the latter is the larger.
    """
    if progress is None:
        return 0.5 * contribution
    if progress <= 0:
        return 0.0
    return combine(progress, contribution) if contribution >= progress else contribution


def proxy(stage: Stage, improvement_since_stage: float | None, config: RewardConfig) -> float:
    """Proxy credit of an unmeasured seed: a share of its stage's gain, at least 0."""
    if stage not in AMPLIFIED or improvement_since_stage is None or improvement_since_stage <= 0:
        return 0.0
    return config.contribution_weight * config.proxy_confidence_factor * improvement_since_stage


@dataclass(frozen=True, slots=True)
class EscrowMove:
    """Change of a slot's credit."""

    previous: float
    target: float
    change: float
    harm: float = 0.0
    """Additional charge for a negative contribution."""

    @property
    def payout(self) -> float:
        """Amount that is paid."""
        return self.change + self.harm

    @property
    def balance(self) -> float:
        """Credit after the move."""
        return self.previous + self.change


def escrow_move(
    credit: float, contribution: float | None, progress: float | None, doubt: float, config: RewardConfig
) -> EscrowMove:
    """The move of a live seed's credit towards its present value.

    Args:
        credit: balance before the move.
        contribution: ``None`` if unmeasured; nothing moves then.
        progress: stable accuracy now minus accuracy at germination.
        doubt: see :func:`suspicion`.
    """
    if contribution is None:
        return EscrowMove(credit, 0.0, 0.0)
    if contribution < 0:
        return EscrowMove(credit, 0.0, -credit, config.contribution_weight * contribution)
    value = attributed_value(progress, contribution, geometric)
    target = max(0.0, config.contribution_weight * value + doubt)
    limit = config.escrow_delta_clip
    change = target - credit
    return EscrowMove(credit, target, max(-limit, min(limit, change)) if limit else change)
