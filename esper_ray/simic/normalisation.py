"""Offset, mean and spread of returns, updated between rollouts and constant within them.

The critic predicts returns of centred rewards: of each reward minus the offset. Its outputs ``y`` have the unit of the
spread: ``V = mean + spread * y``. A policy is therefore the same for the rewards ``a r + b``, for every ``a > 0``.

Source: van Hasselt et al., Learning values across many orders of magnitude (2016).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from esper_ray.simic.running_moments import FloatArray, Moments

ROUNDING = 1e-10
"""Spread of returns, relative to the offset, that is no more than rounding of rewards in double precision."""
SMALLEST_SPREAD = 1e-30
"""Spread of returns, in units of reward, below which single precision has no room."""


@dataclass(frozen=True, slots=True)
class EpisodeRewards:
    """The rewards of an episode."""

    rewards: FloatArray
    """(T,)"""
    missing: int = 0
    """Steps that an early end has cut off; they pay 0."""
    end: float = 0.0
    """Value of the state after the last step, of centred rewards."""


def discounted_returns(rewards: FloatArray, gamma: float, end: float = 0.0) -> FloatArray:
    """(T,) discounted returns of each step of an episode.

    Args:
        rewards: (T,).
        gamma: discount.
        end: value of the state after the last step.
    """
    returns = np.empty(len(rewards))
    following = end
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] + gamma * following
        returns[t] = following
    return returns


@dataclass(frozen=True, slots=True)
class ReturnStatistics:
    """Statistics of the returns of all episodes so far. Immutable: a rollout uses one state throughout."""

    offset: float | None = None
    """Mean reward of a step in the first round, in units of reward; ``None`` before it.

    It is constant from then on: each change would move the value of a state by an amount that depends on the time
    left, and no change of the critic's last layer could compensate it.
    """
    moments: Moments = field(default_factory=lambda: Moments.none(1))
    """Of the discounted returns of centred rewards."""

    @property
    def mean(self) -> float:
        """Mean of the returns of centred rewards; 0 without data."""
        return float(self.moments.mean[0])

    @property
    def spread(self) -> float:
        """Standard deviation of the returns. It is 0 without data, and where all are equal up to rounding."""
        if self.moments.count == 0:
            return 0.0
        deviation = math.sqrt(float(self.moments.squares[0]) / self.moments.count)
        return deviation if deviation > max(ROUNDING * abs(self.offset or 0.0), SMALLEST_SPREAD) else 0.0

    def centred(self, episode: EpisodeRewards, gamma: float) -> EpisodeRewards:
        """The rewards minus the offset.

        The steps that an early end has cut off pay 0, which is the offset less than the average step. Their value
        becomes that of the state after the last step, so that an episode gains nothing by its end.
        """
        offset = self.offset or 0.0
        steps = episode.missing if gamma == 1.0 else (1.0 - gamma**episode.missing) / (1.0 - gamma)
        return EpisodeRewards(episode.rewards - offset, end=episode.end - offset * steps)

    def learned(self, episodes: Sequence[EpisodeRewards], gamma: float) -> "ReturnStatistics":
        """The statistics after a round.

        Args:
            episodes: in the order of their numbers. The moments of single episodes are merged in this order, so that
                the result does not depend on workers or completion order.

        Source: Chan, Golub and LeVeque, Updating formulae for computing sample variances (1979).
        """
        if not episodes:
            return self
        offset = self.offset
        if offset is None:
            paid = [float(reward) for episode in episodes for reward in episode.rewards]
            offset = math.fsum(paid) / len(paid)
        statistics = ReturnStatistics(offset, self.moments)
        moments = self.moments
        for episode in episodes:
            centred = statistics.centred(episode, gamma)
            moments = moments.merged(discounted_returns(centred.rewards, gamma, centred.end)[:, None])
        return ReturnStatistics(offset, moments)
