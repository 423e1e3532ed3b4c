"""The crew on a Ray cluster: a learner actor and environment actors."""

import math
import os
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Self

import ray

from actors.crew import OnEpisode, ShouldStop
from actors.environment import EnvironmentActor
from actors.learner import LearnerActor
from actors.ppo import LearnerState
from actors.rollout import Assignment, Interrupted
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.policy import Episode

Learner: Any = LearnerActor
Environment: Any = EnvironmentActor

POLL_SECONDS = 0.2
"""How often a wait looks up to see whether it should stop."""


class ResourceError(Exception):
    """The cluster does not have what the run asks for."""


def start_ray(actors: int) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start one on this machine with a CPU for each of so many actors."""
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    else:
        cpus = max(os.cpu_count() or 1, actors)
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="WARNING")


class RayCrew:
    """One learner actor, and one environment actor for every ``envs_per_actor`` environments.

    Episodes are dealt out as actors become free: an episode depends on its seed and the policy only, so
    on equal devices it does not matter who plays it. On unequal ones every device keeps its own
    environments.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        system = config.system
        served = min(system.envs, len(system.devices))  # every device that has environments needs an actor
        actors = max(math.ceil(system.envs / system.envs_per_actor), served)
        self._devices = [system.devices[i % len(system.devices)] for i in range(actors)]
        self._learner: Any = None
        self._actors: list[Any] = []
        self._started_ray = False

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            start_ray(len(self._devices))
            self._started_ray = True
        try:
            self._check_resources()
            device = self.config.system.device
            options = Learner.options(num_cpus=0, **self._gpu(device))
            self._learner = options.remote(self.config, device.partition(":")[0])
            for device in self._devices:
                slots = self.config.system.slots_per_actor
                options = Environment.options(num_cpus=1, max_concurrency=slots, **self._gpu(device))
                self._actors.append(options.remote(self.config, device.partition(":")[0]))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in [*self._actors, self._learner]:
            if actor is not None:
                ray.kill(actor)
        self._actors, self._learner = [], None
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False

    def describe(self) -> str:
        """One line about who works where."""
        counts = ", ".join(f"{count} on {device}" for device, count in Counter(self._devices).items())
        address = ray.get_runtime_context().gcs_address
        return f"Ray at {address}: environment actors {counts}; learner actor on {self.config.system.device}"

    def play(
        self, assignments: Sequence[Assignment], epsilon: float, on_episode: OnEpisode, should_stop: ShouldStop
    ) -> list[Episode]:
        """See ``Crew.play``."""
        weights = self._learner.weights.remote()
        ray.get([actor.adopt.remote(weights, epsilon) for actor in self._actors])
        queues = self._queues(assignments)
        slots = [i for _ in range(self.config.system.slots_per_actor) for i in range(len(self._actors))]
        running = {self._next(queues, i): i for i in slots if queues[self._devices[i]]}
        episodes: dict[int, Episode] = {}
        references: dict[int, Any] = {}
        while running:
            done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
            if should_stop():
                raise Interrupted
            for reference in done:
                actor = running.pop(reference)
                if queues[self._devices[actor]]:
                    running[self._next(queues, actor)] = actor
                episode = ray.get(reference)
                episodes[episode.index], references[episode.index] = episode, reference
                on_episode(episode)
        self._played = [references[assignment.index] for assignment in assignments]
        return [episodes[assignment.index] for assignment in assignments]

    def update(self, episodes: Sequence[Episode], round_index: int) -> dict[str, float]:
        """See ``Crew.update``. The learner takes the episodes where the actors left them."""
        result: dict[str, float] = ray.get(self._learner.update.remote(round_index, *self._played))
        return result

    def state(self) -> LearnerState:
        """See ``Crew.state``."""
        state: LearnerState = ray.get(self._learner.state.remote())
        return state

    def load(self, state: LearnerState) -> None:
        """See ``Crew.load``."""
        ray.get(self._learner.load.remote(state))

    def _queues(self, assignments: Sequence[Assignment]) -> dict[str, deque[Assignment]]:
        """Assignments by device, as in the serial crew."""
        devices = self.config.system.devices
        queues: dict[str, deque[Assignment]] = {device: deque() for device in devices}
        for assignment in assignments:
            queues[devices[assignment.env % len(devices)]].append(assignment)
        return queues

    def _next(self, queues: dict[str, deque[Assignment]], actor: int) -> Any:
        return self._actors[actor].play.remote(queues[self._devices[actor]].popleft())

    def _gpu(self, device: str) -> dict[str, float]:
        """The share of a GPU that each user of ``device`` gets."""
        users = [*self._devices, self.config.system.device]
        return {} if device == "cpu" else {"num_gpus": 1.0 / users.count(device)}

    def _check_resources(self) -> None:
        """Refuse at once what would otherwise wait for ever.

        Raises:
            ResourceError: with the arithmetic.
        """
        has = ray.cluster_resources()
        gpus = {device for device in (*self._devices, self.config.system.device) if device != "cpu"}
        needs = {"CPU": len(self._devices), "GPU": len(gpus)}
        for kind, needed in needs.items():
            if needed > has.get(kind, 0):
                what = f"{len(self._devices)} environment actors" if kind == "CPU" else ", ".join(sorted(gpus))
                raise ResourceError(f"the run needs {needed} {kind} ({what}), the cluster has {has.get(kind, 0):g}")
