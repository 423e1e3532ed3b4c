"""Hands samples to the telemetry actor without ever waiting for it."""

from typing import Any

import ray
from ray.exceptions import RayError

from esper_actors.rollout.sampling import SampleBatch

IN_FLIGHT = 16
"""Calls that may be under way at a time; what comes then is lost."""


class SampleSender:
    """Sends the samples of one episode to the telemetry actor, without waiting for it.

    See :data:`~esper_actors.rollout.sampling.Send`. The driver counts the samples that do not arrive.
    """

    def __init__(self, actor: Any) -> None:
        """
        Args:
            actor: handle of a :class:`~esper_actors.cluster.telemetry_actor.TelemetryActor`, which may die.
        """
        self._actor = actor
        self._flying: list[Any] = []
        self._gone = False

    def __call__(self, told: SampleBatch) -> None:
        """Hand it over, if the actor is there and keeps up."""
        done: list[Any] = []
        if self._flying:
            done, self._flying = ray.wait(self._flying, num_returns=len(self._flying), timeout=0)
        try:
            ray.get(done)
        except RayError:
            self._gone = True
        if not self._gone and len(self._flying) < IN_FLIGHT:
            self._flying.append(self._actor.take_in.remote(told))
