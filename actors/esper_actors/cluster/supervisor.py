"""Supervised actors, restarted after their death.

Each start is a new actor, and every call carries all that it needs.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
)

from esper_actors.training.failures import MEMORY_ADVICE, describe_error
from esper_ray.tolaria.device_memory import is_out_of_memory

_serial = itertools.count()
"""Makes names of actors unique within a driver."""

LOST_ACTOR_ERRORS = (RayActorError, RaySystemError, ObjectLostError, NodeDiedError, OutOfMemoryError)
"""Errors of a call whose actor, node or result was lost; not errors of its code."""


def is_lost(error: BaseException) -> bool:
    """Whether an actor has to be replaced: it, its node or its result was lost, or it has no memory left."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    return isinstance(error, LOST_ACTOR_ERRORS) or (cause is not None and is_out_of_memory(cause))


def reason(error: BaseException) -> str:
    """The first informative line of an error from Ray."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return describe_error(cause) if cause is not None else str(error).strip().splitlines()[-1]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"{text}; {MEMORY_ADVICE}" if isinstance(error, OutOfMemoryError) else text


class SupervisedActor:
    """One actor at a time under one name, restarted after its death."""

    def __init__(self, make: Callable[[str], Any], name: str) -> None:
        """
        Args:
            make: starts an actor of the given name.
        """
        self.name = name
        self.attempt = 0
        self.failures = 0
        """Failed starts in a row."""
        self.starting: Any = None
        """Reference that arrives when the actor is ready; ``None`` once it has."""
        self.reported_waiting = False
        self._make = make
        self._actor: Any = None
        self._began = 0.0

    @property
    def alive(self) -> bool:
        """Whether an actor has reported that it is ready, and has not failed since."""
        return self._actor is not None and self.starting is None

    @property
    def actor(self) -> Any:
        """Handle of the actor if it is :attr:`alive`; else ``None``."""
        return self._actor if self.alive else None

    @property
    def waiting_s(self) -> float:
        """Seconds since the actor was requested."""
        return time.monotonic() - self._began

    def start(self) -> None:
        """Request a new actor. It starts when its resources are free."""
        self.attempt += 1
        self._began, self.reported_waiting = time.monotonic(), False
        self._actor = self._make(f"{self.name}#{next(_serial)}")
        self.starting = self._actor.ready.remote()

    def started(self) -> float:
        """Note that the actor is ready.

        Returns:
            Seconds that the start took.

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
        """A reference to the result of ``method`` of the actor."""
        return getattr(self._actor, method).remote(*arguments)

    def stop(self) -> None:
        """Kill the actor."""
        if self._actor is not None:
            ray.kill(self._actor)
        self.forget()

    def forget(self) -> None:
        """Leave the actor to a cluster that is lost."""
        self._actor, self.starting = None, None
