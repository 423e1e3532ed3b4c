"""The Ray shell of the learner."""

from collections.abc import Sequence

import ray
import torch

from esper_actors.training.learner.ppo import PPOLearner
from esper_actors.training.learner.state import LearnerState
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.policy import Episode


@ray.remote
class LearnerActor:
    """The learner of a run, in a process of its own."""

    def __init__(self, config: RunConfig, device: str, state: LearnerState | None) -> None:
        """
        Args:
            device: as this process sees it; Ray shows an actor only its own GPUs.
            state: to resume from; ``None`` starts with an untrained policy.
        """
        torch.set_num_threads(config.system.learner_threads)
        self._learner = PPOLearner(config, device)
        if state is not None:
            self._learner.load(state)

    def ready(self) -> None:
        """Return once the learner exists."""

    def state(self) -> LearnerState:
        """The complete state of the learner."""
        return self._learner.state()

    def update(self, round_index: int, episodes: Sequence[Episode]) -> tuple[dict[str, float], LearnerState]:
        """Update the policy with one round; returns diagnostics and the state after it."""
        return self._learner.update(episodes, round_index), self._learner.state()
