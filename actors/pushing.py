"""Hands samples to the telemetry actor without ever waiting for it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from actors.sampling import Record

IN_FLIGHT = 16
"""Calls that may be under way at a time; what comes then is lost, and counted."""


class Pushing:
    """One episode's way to the actor, see :data:`~actors.sampling.Send`."""

    def __init__(self, actor: Any) -> None:
        """
        Args:
            actor: handle of a :class:`~actors.telemetry.TelemetryActor`, which may die.
        """
        self._actor = actor
        self._flying: dict[Any, int] = {}
        self._gone = False

    def __call__(self, records: Sequence[Record]) -> Mapping[str, int]:
        """Hand ``records`` over. Returns how many are known to be lost since the last call, by reason."""
        lost = Counter[str]()
        done = ray.wait(list(self._flying), num_returns=len(self._flying), timeout=0)[0] if self._flying else []
        for reference in done:
            count = self._flying.pop(reference)
            try:
                lost["busy"] += ray.get(reference)
            except RayError:
                self._gone = True
                lost["gone"] += count
        if self._gone:
            lost["gone"] += len(records)
        elif len(self._flying) >= IN_FLIGHT:
            lost["busy"] += len(records)
        else:
            self._flying[self._actor.take_in.remote(list(records))] = len(records)
        return +lost
