"""Actors that are started again when they die. Each start is a new actor; every call tells it all it needs."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayError, RaySystemError, RayTaskError

_serial = itertools.count()
"""Makes names of actors unique within a driver."""

LOST_ACTOR_ERRORS = (RayActorError, RaySystemError, ObjectLostError, NodeDiedError)
"""What a call raises when its actor, its node or its result is gone. Not what its code raises."""


def reason(error: BaseException) -> str:
    """The first telling line of an error from Ray."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return f"{type(cause).__name__}: {cause}" if cause is not None else str(error).strip().splitlines()[-1]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class SupervisedActor:
    """One actor after another under one name."""

    def __init__(self, make: Callable[[str], Any], name: str) -> None:
        """
        Args:
            make: starts an actor of the given name.
        """
        self.name = name
        self.attempt = 0
        self.failures = 0
        """Starts in a row that did not succeed."""
        self.starting: Any = None
        """Reference that is there when the actor can work; ``None`` once it is."""
        self.reported_waiting = False
        self._make = make
        self._actor: Any = None
        self._began = 0.0

    @property
    def alive(self) -> bool:
        """Whether there is an actor that can work, as far as we know."""
        return self._actor is not None and self.starting is None

    @property
    def actor(self) -> Any:
        """Handle of the present actor if it can work, as far as we know; else ``None``."""
        return self._actor if self.alive else None

    @property
    def waiting_s(self) -> float:
        """Seconds since the present actor was asked for."""
        return time.monotonic() - self._began

    def start(self) -> None:
        """Ask for a new actor. It begins to work when there is a place for it."""
        self.attempt += 1
        self._began, self.reported_waiting = time.monotonic(), False
        self._actor = self._make(f"{self.name}#{next(_serial)}")
        self.starting = self._actor.ready.remote()

    def started(self) -> float:
        """Take note that it can work.

        Returns:
            Seconds that it took.

        Raises:
            RayError: if it cannot.
        """
        try:
            ray.get(self.starting)
        except RayError:
            self.failures += 1
            raise
        self.starting, self.failures = None, 0
        return self.waiting_s

    def call(self, method: str, *arguments: Any) -> Any:
        """A reference to what ``method`` of the present actor returns."""
        return getattr(self._actor, method).remote(*arguments)

    def stop(self) -> None:
        """End the present actor, whatever it is doing."""
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor, self.starting = None, None
