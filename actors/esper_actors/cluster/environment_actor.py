"""The Ray shell of an environment pool: an actor that runs whole episodes."""

from typing import Any

import ray
import torch

from esper_actors.cluster.telemetry_actor import SampleSender
from esper_actors.rollout.pool import EnvironmentPool, PlayedEpisode
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import never
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_ray.leyline.config.run import RunConfig


@ray.remote
class EnvironmentActor:
    """An actor with the environments of one device, each with a copy of the policy."""

    def __init__(
        self, config: RunConfig, device: str, share: float, snapshots: SnapshotPolicy | None, player: Any
    ) -> None:
        """
        Args:
            device: name of the device in this process; Ray shows an actor only its own GPU as ``cuda:0``.
            share: share of that GPU, which also limits its memory.
            player: replaces :class:`EnvironmentPool`, with the same arguments; ``None``: the pool.
        """
        torch.set_num_threads(config.system.threads)
        if player is None and device.startswith("cuda") and share < 1:
            torch.cuda.set_per_process_memory_fraction(share, device)
        make = player or EnvironmentPool
        self._pool = make(config, device, config.system.slots_per_actor, snapshots)

    def ready(self) -> str:
        """The address of the node of this actor; returns once it can run episodes."""
        return str(ray.util.get_node_ip_address())

    def play(
        self, assignment: Assignment, behaviour: Behaviour, weights: dict[str, torch.Tensor], telemetry: Any = None
    ) -> PlayedEpisode:
        """Run one episode. Ray transfers the weights once per node, not once per call.

        Args:
            telemetry: the telemetry actor, which receives samples of the episode.
        """
        send = None if telemetry is None else SampleSender(telemetry)
        result: PlayedEpisode = self._pool.play(assignment, behaviour, weights, never, send)
        return result
