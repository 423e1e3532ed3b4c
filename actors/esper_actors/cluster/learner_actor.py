"""The Ray shell of the learner."""

from collections.abc import Sequence

import ray
import torch

from esper_actors.training.ppo_learner import LearnerState, PPOLearner
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.policy import Episode


@ray.remote
class LearnerActor:
    """Owns the policy that is being trained."""

    def __init__(self, config: RunConfig, device: str, state: LearnerState | None) -> None:
        """
        Args:
            device: as this process sees it; Ray shows an actor only the GPUs that it was given.
            state: to go on from, if it is not the beginning.
        """
        torch.set_num_threads(config.system.learner_threads)
        self._learner = PPOLearner(config, device)
        if state is not None:
            self._learner.load(state)

    def ready(self) -> None:
        """Nothing; returns once this actor can work."""

    def state(self) -> LearnerState:
        """Everything that learns or counts."""
        return self._learner.state()

    def update(self, round_index: int, episodes: Sequence[Episode]) -> tuple[dict[str, float], LearnerState]:
        """Learn from one round. Returns diagnostics and the state after it: whoever has it can go on without us."""
        return self._learner.update(episodes, round_index), self._learner.state()
