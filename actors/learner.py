"""The Ray shell of the learner."""

import ray
import torch

from actors.ppo import LearnerState, PPOLearner
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.policy import Episode


@ray.remote
class LearnerActor:
    """Owns the policy that is being trained."""

    def __init__(self, config: RunConfig, device: str) -> None:
        """
        Args:
            device: as this process sees it; Ray shows an actor only the GPUs that it was given.
        """
        torch.set_num_threads(config.system.learner_threads)
        self._learner = PPOLearner(config, device)

    def weights(self) -> dict[str, torch.Tensor]:
        """What environments need to act."""
        return self._learner.weights()

    def update(self, round_index: int, *episodes: Episode) -> dict[str, float]:
        """Learn from one round. Episodes come as references, so that their data goes straight to this actor."""
        return self._learner.update(episodes, round_index)

    def state(self) -> LearnerState:
        """Everything that learns or counts."""
        return self._learner.state()

    def load(self, state: LearnerState) -> None:
        """Continue from ``state``."""
        self._learner.load(state)
