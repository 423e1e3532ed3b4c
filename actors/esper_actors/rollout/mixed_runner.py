"""Runners of several tasks: each assignment belongs to one of them."""

from collections.abc import Sequence

import numpy as np

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner
from esper_ray.tolaria.assembly import derived_seed

TASK_STREAM = 4
"""Key of the draw of a task."""


class MixedRunner:
    """Runners of one policy on several tasks."""

    def __init__(self, shares: Sequence[tuple[float, EpisodeRunner]]) -> None:
        """
        Args:
            shares: probability and runner of each task.
        """
        self.runners = [runner for _, runner in shares]
        self._bounds = np.cumsum([share for share, _ in shares])

    def runner_of(self, assignment: Assignment) -> EpisodeRunner:
        """The runner of an episode, a function of its seed. So a repeated episode is one of the same task."""
        if len(self.runners) == 1:
            return self.runners[0]
        drawn = np.random.default_rng(derived_seed(assignment.seed, TASK_STREAM)).random() * self._bounds[-1]
        return self.runners[int(np.searchsorted(self._bounds, drawn, side="right"))]
