"""Diagnostics of a PPO update: of its optimizer steps, and of the round that it learned from."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from esper_actors.training.learner.batches import PaddedBatch
from esper_actors.training.learner.gradients import GradientNorms
from esper_policies.distribution import ActionDistribution
from esper_ray.leyline.actions import HEADS
from esper_ray.simic import ppo

HEAD_NORMS = tuple(f"grad_norm_{head}" for head in HEADS)
STEP_MEANS = (
    "policy_loss",
    "value_loss",
    "entropy",
    "kl",
    "clip_share",
    "grad_norm",
    "clip_share_up",
    "clip_share_down",
)
"""Diagnostics of optimizer steps, of which an update has the mean."""
STEP_MAXIMA = ("ratio_max",)
ROUND_DIAGNOSTICS = (
    "explained_variance",
    "return_variance",
    "low_variance",
    "value_nrmse",
    "value_return_correlation",
    "advantage_std",
    "log_prob_min",
    "memory_rms",
    "observation_clipped_share",
    *(f"{name}_{head}" for name in ("entropy", "choice_share") for head in HEADS),
)
"""Diagnostics of a round."""


def head_norms(norms: GradientNorms) -> dict[str, float]:
    """Gradient norms of the heads before clipping, by name."""
    values = torch.stack([norms.heads[head] for head in HEADS]).tolist()
    return dict(zip(HEAD_NORMS, values, strict=True))


def mean_report(reports: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means and maxima over the optimizer steps of an update; NaN if there was none."""
    if not reports:
        return dict.fromkeys((*STEP_MEANS, *HEAD_NORMS, *STEP_MAXIMA), math.nan)
    means = {name: float(np.mean([report[name] for report in reports])) for name in (*STEP_MEANS, *HEAD_NORMS)}
    return means | {name: max(report[name] for report in reports) for name in STEP_MAXIMA}


def value_summary(batch: PaddedBatch, returns: Tensor, advantages: Tensor, low_variance: float) -> dict[str, float]:
    """How well the values of the rollout predicted the returns.

    Args:
        returns: (B, T) in units of reward.
        advantages: (B, T) of the operation, in units of reward.
        low_variance: variance of returns up to which explained variance has no meaning.

    Numbers that are not defined, where returns or values do not vary, are NaN.
    """
    explained, variance = ppo.explained_variance(batch.values, returns, batch.valid_mask)
    error = ppo.weighted_mean((batch.values - returns) ** 2, batch.valid_mask).sqrt()
    numbers = {
        "explained_variance": explained,
        "return_variance": variance,
        "value_nrmse": torch.where(variance > 0, error / variance.sqrt(), torch.full_like(error, torch.nan)),
        "value_return_correlation": ppo.correlation(batch.values, returns, batch.valid_mask),
        "advantage_std": ppo.weighted_variance(advantages, batch.choice_mask).sqrt(),
        "log_prob_min": (batch.log_prob_op + batch.log_prob_arguments)[batch.valid_mask > 0].min(),
    }
    summary = dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True))
    return summary | {"low_variance": float(summary["return_variance"] <= low_variance)}


def choice_summary(batch: PaddedBatch, distribution: ActionDistribution) -> dict[str, float]:
    """Entropy of each head where it had a choice, and the share of such steps. The entropy is NaN without one."""
    summary: dict[str, float] = {}
    valid_mask = batch.valid_mask.flatten()
    with torch.no_grad():
        for head, (entropy, has_choice) in distribution.head_entropies(batch.actions.flatten(0, 1)).items():
            weight = valid_mask * has_choice
            summary[f"entropy_{head}"] = float(ppo.weighted_mean(entropy, weight)) if weight.any() else math.nan
            summary[f"choice_share_{head}"] = float(weight.sum() / valid_mask.sum())
    return summary


def state_rms(batch: PaddedBatch, state: Tensor) -> float:
    """Root mean square of the policy's state over the steps of the round.

    Args:
        state: (B * T, memory).
    """
    return float(ppo.weighted_mean((state**2).mean(dim=-1), batch.valid_mask.flatten()).sqrt())
