"""Scale of returns, updated between rollouts and constant within them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from esper_ray.simic.running_moments import FloatArray, Moments


def discounted_returns(rewards: FloatArray, gamma: float) -> FloatArray:
    """(T,) discounted returns of each step of an episode, from (T,) rewards."""
    returns = np.empty(len(rewards))
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] + gamma * following
        returns[t] = following
    return returns


@dataclass(frozen=True, slots=True)
class ReturnScale:
    """Statistics of the returns of all episodes so far. Immutable: a rollout uses one scale throughout.

    Rewards are not changed. The critic's predictions are scaled by :attr:`unit`, so that a stored reward means
    the same in every round.
    """

    moments: Moments = field(default_factory=lambda: Moments.none(1))

    @property
    def unit(self) -> float:
        """Standard deviation of the returns; 1 without data."""
        return float(self.moments.deviation[0])

    def learned(self, episodes: Sequence[FloatArray], gamma: float) -> "ReturnScale":
        """The scale after a round.

        Args:
            episodes: rewards of each episode, in the order of the environments. The moments of single episodes are
                merged in this order, so that the result does not depend on workers or completion order.

        Source: Chan, Golub and LeVeque, Updating formulae for computing sample variances (1979).
        """
        moments = self.moments
        for rewards in episodes:
            moments = moments.merged(discounted_returns(rewards, gamma)[:, None])
        return ReturnScale(moments)
