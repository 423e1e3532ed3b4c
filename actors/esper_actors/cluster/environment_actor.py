"""The Ray shell of an environment pool: an actor that plays whole episodes."""

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
    """Environments of one process on one device, each with a copy of the policy."""

    def __init__(
        self, config: RunConfig, device: str, share: float, snapshots: SnapshotPolicy | None, player: Any
    ) -> None:
        """
        Args:
            device: as this process sees it; Ray shows an actor only its own GPU.
            share: of that GPU. No more than this share of its memory is used.
            player: replaces :class:`EnvironmentPool`; it takes the same arguments.
        """
        torch.set_num_threads(config.system.threads)
        if player is None and device.startswith("cuda") and share < 1:
            torch.cuda.set_per_process_memory_fraction(share, device)
        make = player or EnvironmentPool
        self._pool = make(config, device, config.system.slots_per_actor, snapshots)

    def ready(self) -> str:
        """The name of the node of this actor; returns once the environments exist."""
        return str(ray.util.get_node_ip_address())

    def play(
        self, assignment: Assignment, behaviour: Behaviour, weights: dict[str, torch.Tensor], telemetry: Any = None
    ) -> PlayedEpisode:
        """Play one episode. Ray transfers the weights once per node, not once per call.

        Args:
            telemetry: the actor that receives samples.
        """
        send = None if telemetry is None else SampleSender(telemetry)
        played: PlayedEpisode = self._pool.play(assignment, behaviour, weights, never, send)
        return played
