"""The Ray shell of environments: an actor that plays whole episodes, several at a time if it is told to."""

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
    """Owns the environments of one process on one device, each with a copy of the policy."""

    def __init__(
        self, config: RunConfig, device: str, share: float, snapshots: SnapshotPolicy | None, player: Any
    ) -> None:
        """
        Args:
            device: as this process sees it; Ray shows an actor only the GPU that it was given.
            share: of that GPU. No more than this share of its memory is used.
            player: what plays, made from configuration, device, slots and snapshots; else :class:`EnvironmentPool`.
        """
        torch.set_num_threads(config.system.threads)
        if player is None and device.startswith("cuda") and share < 1:
            torch.cuda.set_per_process_memory_fraction(share, device)
        make = player or EnvironmentPool
        self._slots = make(config, device, config.system.slots_per_actor, snapshots)

    def ready(self) -> str:
        """The name of the node that this actor is on, once it can play."""
        return str(ray.util.get_node_ip_address())

    def play(
        self, assignment: Assignment, behaviour: Behaviour, weights: dict[str, torch.Tensor], telemetry: Any = None
    ) -> PlayedEpisode:
        """One episode. Ray hands the weights over once per node, not once per call.

        Args:
            telemetry: the actor that is told of it while it is played.
        """
        send = None if telemetry is None else SampleSender(telemetry)
        played: PlayedEpisode = self._slots.play(assignment, behaviour, weights, never, send)
        return played
