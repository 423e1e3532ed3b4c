"""Hands samples to the telemetry actor without ever waiting for it."""

from typing import Any

import ray
from ray.exceptions import RayError

from actors.sampling import Told

IN_FLIGHT = 16
"""Calls that may be under way at a time; what comes then is lost."""


class Pushing:
    """One episode's way to the actor, see :data:`~actors.sampling.Send`. The driver counts what does not arrive."""

    def __init__(self, actor: Any) -> None:
        """
        Args:
            actor: handle of a :class:`~actors.telemetry.TelemetryActor`, which may die.
        """
        self._actor = actor
        self._flying: list[Any] = []
        self._gone = False

    def __call__(self, told: Told) -> None:
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
