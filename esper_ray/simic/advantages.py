"""Advantages over padded batches of episodes. Shapes: B episodes, T steps."""

import torch
from torch import Tensor

FLOOR = 0.01
"""Smallest divisor of advantages, as a share of the spread of returns."""


def generalised_advantages(
    rewards: Tensor, values: Tensor, bootstrap: Tensor, weights: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimates.

    Args:
        rewards: (B, T).
        values: (B, T) baseline V(s_t).
        bootstrap: (B,) value of the state after each episode's last step; 0 if it terminated.
        weights: (B, T) 1 for valid steps, 0 for padding, which is at the end.
        gamma: discount.
        lam: decay of the trace.

    Returns:
        (B, T), 0 on padding.

    Source: Schulman et al., High-dimensional continuous control using generalized advantage
    estimation (2016).
    """
    steps = rewards.shape[1]
    advantages = torch.zeros_like(rewards)
    following, trace = bootstrap, torch.zeros_like(bootstrap)
    for t in range(steps - 1, -1, -1):
        valid = weights[:, t] > 0
        delta = rewards[:, t] + gamma * following - values[:, t]
        trace = torch.where(valid, delta + gamma * lam * trace, trace)
        following = torch.where(valid, values[:, t], following)
        advantages[:, t] = torch.where(valid, trace, torch.zeros_like(trace))
    return advantages


def argument_advantages(returns: Tensor, q_taken: Tensor) -> Tensor:
    """Advantage of the arguments given the operation: the return minus Q(s, op taken).

    Q depends on the operation only, so it is a valid baseline of all later choices.
    """
    return returns - q_taken


def standardised(advantages: Tensor, weights: Tensor, spread: float) -> Tensor:
    """Standardised advantages ``(A - mean) / max(std, FLOOR * spread)`` over the weighted steps.

    The floor is relative to the spread of all returns so far. Advantages that vary by less than a hundredth of it are
    mostly noise of the critic, and standardising would make as much of them as of any others. Factor and offset
    of the rewards have no effect, because advantages and spread have the same factor and no offset.

    Args:
        advantages: any shape, in units of reward.
        weights: same shape; 0 excludes a step, and its result is 0.
        spread: standard deviation of returns, in units of reward.

    Returns:
        The shape of ``advantages``; all zeros if the weights sum to 0, or the spread is 0: returns are equal then.
    """
    total = weights.sum()
    if total == 0 or spread == 0.0:
        return torch.zeros_like(advantages)
    mean = (weights * advantages).sum() / total
    deviation = ((weights * (advantages - mean) ** 2).sum() / total).sqrt()
    scaled = (advantages - mean) / deviation.clamp_min(FLOOR * spread)
    return torch.where(weights > 0, scaled, torch.zeros_like(scaled))
