"""The Ray shell of environments: an actor that plays whole episodes, several at a time if it is told to."""

import ray
import torch

from actors.rollout import Assignment
from actors.slots import EnvironmentSlots
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.policy import Episode


@ray.remote
class EnvironmentActor:
    """Owns the environments of one process on one device, each with a copy of the policy."""

    def __init__(self, config: RunConfig, device: str) -> None:
        torch.set_num_threads(config.system.threads)
        self._slots = EnvironmentSlots(config, device, config.system.slots_per_actor)

    def adopt(self, weights: dict[str, torch.Tensor], epsilon: float) -> None:
        """Use these weights from now on. Ray hands them over once per node, not once per actor."""
        self._slots.adopt(weights, epsilon)

    def play(self, assignment: Assignment) -> Episode:
        """One episode, from reset to its end."""
        return self._slots.play(assignment)
