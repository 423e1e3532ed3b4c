"""Clipped policy loss and diagnostics of PPO. Every mean is weighted.

Source: Schulman et al., Proximal policy optimization algorithms (2017).
"""

import torch
from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean ``sum(w x) / sum(w)``, 0 if the weights sum to 0. Values of weight 0 must be finite."""
    return (weights * values).sum() / weights.sum().clamp_min(1e-8)


def weighted_variance(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the squared distances from the weighted mean."""
    return weighted_mean((values - weighted_mean(values, weights)) ** 2, weights)


def correlation(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Weighted Pearson correlation; NaN if one of the two does not vary."""
    centred = [x - weighted_mean(x, weights) for x in (first, second)]
    spread = (weighted_mean(centred[0] ** 2, weights) * weighted_mean(centred[1] ** 2, weights)).sqrt()
    ratio = weighted_mean(centred[0] * centred[1], weights) / spread
    return torch.where(spread > 0, ratio.clamp(-1.0, 1.0), torch.full_like(ratio, torch.nan))


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


def ratio_extremes(log_ratio: Tensor, weights: Tensor, clip: float) -> dict[str, Tensor]:
    """Largest ratio of the weighted steps, and shares of ratios outside the clip range.

    The shares are of those above and of those below it.

    The names are those of the diagnostics: ``ratio_max``, ``clip_share_up`` and ``clip_share_down``.
    """
    ratio = _counted(log_ratio, weights).exp()
    return {
        "ratio_max": torch.where(weights > 0, ratio, torch.zeros_like(ratio)).amax(),
        "clip_share_up": weighted_mean((ratio > 1.0 + clip).to(weights.dtype), weights),
        "clip_share_down": weighted_mean((ratio < 1.0 - clip).to(weights.dtype), weights),
    }


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

    spread = weighted_variance(targets, weights)
    rounding = torch.finfo(targets.dtype).eps * weighted_mean(targets**2, weights)
    spread = torch.where(spread > rounding, spread, torch.zeros_like(spread))
    ratio = 1.0 - weighted_variance(targets - predictions, weights) / spread
    return torch.where(spread > 0, ratio, torch.full_like(ratio, torch.nan)), spread


def _counted(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """``log_ratio`` where it has weight, else 0, so that no overflow becomes NaN."""
    return torch.where(weights > 0, log_ratio, torch.zeros_like(log_ratio))
