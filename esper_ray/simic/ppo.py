"""Clipped policy loss and diagnostics of PPO. Every mean is weighted.

Source: Schulman et al., Proximal policy optimization algorithms (2017).
"""

import torch
from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean ``sum(w x) / sum(w)``, 0 if the weights sum to 0. Values of weight 0 must be finite."""
    return (weights * values).sum() / weights.sum().clamp_min(1e-8)


def clipped_policy_loss(log_ratio: Tensor, advantages: Tensor, weights: Tensor, clip: float, count: Tensor) -> Tensor:
    """Clipped policy loss of PPO.

    ``-sum(w min(r A, clip(r, 1 - c, 1 + c) A)) / count`` with ``r = exp(log_ratio)``.

    Args:
        log_ratio: current minus behaviour log-probability of the choice.
        advantages: same shape.
        weights: same shape; 0 excludes a step.
        count: number of steps to divide by. The operation and its arguments share one, so that a rare
            operation does not weigh more than a frequent one.
    """
    ratio = _counted(log_ratio, weights).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)
    return -(weights * surrogate).sum() / count.clamp_min(1.0)


def clip_share(log_ratio: Tensor, weights: Tensor, clip: float) -> Tensor:
    """Share of the weighted steps whose ratio lies outside the clip range."""
    outside = ((_counted(log_ratio, weights).exp() - 1.0).abs() > clip).to(weights.dtype)
    return weighted_mean(outside, weights)


def approximate_kl(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """Low-variance estimate of KL(old || new): mean of ``r - 1 - log r``.

    Source: Schulman, Approximating KL divergence (2020).
    """
    log_ratio = _counted(log_ratio, weights)
    return weighted_mean(log_ratio.exp() - 1.0 - log_ratio, weights)


def value_loss(predictions: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Half the weighted mean squared error."""
    return 0.5 * weighted_mean((predictions - targets) ** 2, weights)


def explained_variance(predictions: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Explained variance ``1 - var(target - prediction) / var(target)``, and ``var(target)``.

    The ratio means little where the variance of the targets is small, hence both; it is NaN where that variance is 0.
    """

    def variance(x: Tensor) -> Tensor:
        mean = weighted_mean(x, weights)
        return weighted_mean((x - mean) ** 2, weights)

    spread = variance(targets)
    rounding = torch.finfo(targets.dtype).eps * weighted_mean(targets**2, weights)
    spread = torch.where(spread > rounding, spread, torch.zeros_like(spread))
    ratio = 1.0 - variance(targets - predictions) / spread
    return torch.where(spread > 0, ratio, torch.full_like(ratio, torch.nan)), spread


def _counted(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """``log_ratio`` where it has weight, else 0, so that no overflow becomes NaN."""
    return torch.where(weights > 0, log_ratio, torch.zeros_like(log_ratio))
