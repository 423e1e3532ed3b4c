"""The Ray shell of an environment: an actor that plays whole episodes."""

import ray
import torch

from actors.rollout import Assignment, EpisodeRunner
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.policy import Episode
from policies.tamiyo import LearnedPolicy


@ray.remote
class EnvironmentActor:
    """Owns one environment on one device, and a copy of the policy."""

    def __init__(self, config: RunConfig, device: str) -> None:
        torch.set_num_threads(config.system.threads)
        self._policy = LearnedPolicy(config.policy, device)
        self._runner = EpisodeRunner(MorphogenesisEnv(config, device), self._policy)

    def adopt(self, weights: dict[str, torch.Tensor], epsilon: float) -> None:
        """Use these weights from now on. Ray hands them over once per node, not once per actor."""
        self._policy.load(weights, epsilon)

    def play(self, assignment: Assignment) -> Episode:
        """One episode, from reset to its end."""
        return self._runner.play(assignment)
