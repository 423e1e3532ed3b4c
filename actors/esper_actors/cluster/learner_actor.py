"""The Ray shell of the learner."""

from collections.abc import Sequence

import ray
import torch

from esper_actors.training.ppo_learner import LearnerState, PPOLearner
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.policy import Episode


@ray.remote
class LearnerActor:
    """An actor with the policy in training."""

    def __init__(self, config: RunConfig, device: str, state: LearnerState | None) -> None:
        """
        Args:
            device: name of the device in this process; Ray shows an actor only its own GPU as ``cuda:0``.
            state: state to resume from; ``None``: a new policy.
        """
        torch.set_num_threads(config.system.learner_threads)
        self._learner = PPOLearner(config, device)
        if state is not None:
            self._learner.load(state)

    def ready(self) -> None:
        """Return once this actor can work."""

    def state(self) -> LearnerState:
        """The complete state of the learner."""
        return self._learner.state()

    def update(self, round_index: int, episodes: Sequence[Episode]) -> tuple[dict[str, float], LearnerState]:
        """Update on one round. Returns diagnostics, and the state from which another actor can resume."""
        return self._learner.update(episodes, round_index), self._learner.state()
