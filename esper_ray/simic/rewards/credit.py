"""What a seed is credited with: attribution, doubts about it, and the credit that escrow keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, sqrt
from types import MappingProxyType

from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import AMPLIFIED, Stage

LARGEST_EXPONENT = 700.0
"""Of what the exponential function still has a value for."""
RANSOM_CONTRIBUTION_PP, RANSOM_IMPROVEMENT_PP = 0.1, -0.2
"""A seed that is missed by more than the first while all together cost more than the second is a ransom."""
LEAST_SUSPECT_PP = 1.0
"""Contribution above which a claim may be doubted."""


def improvement_discount(improvement: float | None, steepness: float) -> float:
    """Factor in (0, 1]: 1 if all seeds together do not hurt, and quickly to 0 as they do."""
    if improvement is None or improvement >= 0:
        return 1.0
    return 1.0 / (1.0 + exp(min(-steepness * improvement, LARGEST_EXPONENT)))


def suspicion(contribution: float, improvement: float, discount: float, config: RewardConfig) -> float:
    """What is taken, at most 0, because a seed claims far more than all seeds achieve together."""
    most = -config.prune_good_seed_penalty
    if config.disable_anti_gaming or contribution <= LEAST_SUSPECT_PP or discount < 0.5:
        return 0.0
    if improvement > max(config.improvement_safe_threshold, 1e-8):
        threshold = config.hacking_ratio_threshold
        excess = (contribution / improvement - threshold) / threshold
        return -min(most, 0.1 * excess) if excess > 0 else 0.0
    return -most * min(1.0, contribution / 10.0)


def is_ransom(contribution: float | None, improvement: float | None) -> bool:
    """Whether the network leans on a seed although all seeds together make it worse."""
    if contribution is None or improvement is None:
        return False
    return contribution > RANSOM_CONTRIBUTION_PP and improvement < RANSOM_IMPROVEMENT_PP


def timing_discount(germination_epoch: int, warmup_epochs: int, floor: float) -> float:
    """Factor on what a seed earns that was germinated early, linear from ``floor`` at epoch 0 to 1."""
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
    """The part of a contribution of at least 0 that the accuracy gained since germination bears out.

    Args:
        progress: points gained since germination; half of the contribution is believed without it.
        combine: of progress and contribution, where the latter is the larger.
    """
    if progress is None:
        return 0.5 * contribution
    if progress <= 0:
        return 0.0
    return combine(progress, contribution) if contribution >= progress else contribution


def proxy(stage: Stage, improvement_since_stage: float | None, config: RewardConfig) -> float:
    """Credit of a seed that was never measured: a share of what was gained since its stage began, never negative."""
    if stage not in AMPLIFIED or improvement_since_stage is None or improvement_since_stage <= 0:
        return 0.0
    return config.contribution_weight * config.proxy_confidence_factor * improvement_since_stage


@dataclass(frozen=True, slots=True)
class EscrowMove:
    """How the credit that is kept for a slot changes."""

    previous: float
    target: float
    change: float
    harm: float = 0.0
    """Paid besides: a negative contribution itself."""

    @property
    def payout(self) -> float:
        """What is paid."""
        return self.change + self.harm

    @property
    def balance(self) -> float:
        """Credit afterwards."""
        return self.previous + self.change


def escrow_move(
    credit: float, contribution: float | None, progress: float | None, doubt: float, config: RewardConfig
) -> EscrowMove:
    """The move of a live seed's credit towards what it is worth now.

    Args:
        credit: kept so far.
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
