"""The worker group of one process, without Ray."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch

from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import Interrupted
from esper_actors.rollout.sampling import SampleBatch, Send
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_actors.training.failures import describe_error
from esper_actors.training.learner.ppo import PPOLearner
from esper_actors.training.learner.state import LearnerState
from esper_actors.training.scheduler import EpisodeScheduler, EpisodeTask
from esper_actors.training.workers import Watch, Weights
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.nissa.metrics.exporter import Exporter


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Context in which torch uses ``count`` threads; the previous number is restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class LocalWorkerGroup:
    """Environments and learner in this process, one episode after another."""

    def __init__(
        self, config: RunConfig, snapshots: SnapshotPolicy | None = None, player: Callable[..., Any] | None = None
    ) -> None:
        """
        Args:
            snapshots: where unfinished episodes are saved; without it, nowhere.
            player: replaces the real environments, in tests and benchmarks.
        """
        self.config, self.snapshots = config, snapshots
        self.exporter: Exporter | None = None
        """None: the caller is in the same process."""
        make = player or EnvironmentPool
        with torch_threads(config.system.threads):  # the last bits of initial weights depend on it
            self.learner = PPOLearner(config)
            self._players = {device: make(config, device, 1, snapshots) for device in config.system.devices}
        self._scheduler = EpisodeScheduler(config.system.devices, config.system.tries)

    @property
    def quarantined(self) -> dict[int, str]:
        """See :class:`WorkerGroup`."""
        return self._scheduler.quarantined

    def __enter__(self) -> Self:
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self.config.system.threads)
        return self

    def __exit__(self, *exception: object) -> None:
        torch.set_num_threads(self._threads_before)

    def plan(self) -> str:
        """See :class:`WorkerGroup`."""
        return "everything in this process"

    @property
    def links(self) -> Mapping[str, str]:
        """See ``WorkerGroup.links``: none."""
        return {}

    def describe(self) -> str:
        """One line about the placement of the workers."""
        devices = ", ".join(self._players)
        return f"local: one process, environments on {devices}, learner on {self.config.system.device}"

    def begin(self, assignments: Sequence[Assignment], behaviour: Behaviour, weights: Weights) -> None:
        """See :class:`WorkerGroup`."""
        self._scheduler.begin(EpisodeTask(assignment, behaviour, weights) for assignment in assignments)

    def collect(self, assignments: Sequence[Assignment], watch: Watch) -> list[Episode]:
        """See :class:`WorkerGroup`."""
        torch.set_num_threads(self.config.system.threads)
        while not self._scheduler.done(assignments):
            for device, player in self._players.items():
                task = self._scheduler.next(device)
                if task is not None:
                    self._play(task, player, watch)
        return self._scheduler.pop_episodes(assignments)

    def _play(self, task: EpisodeTask, player: Any, watch: Watch) -> None:
        send = None if watch.on_samples is None else _direct(watch.on_samples)
        try:
            played = player.play(task.assignment, task.behaviour, task.weights, watch.should_stop, send)
        except Interrupted:
            raise
        except Exception as error:
            stamp = None if self.snapshots is None else self.snapshots.stamp(task.behaviour, task.assignment)
            watch.on_fault(self._scheduler.failed(task, describe_error(error), stamp))
        else:
            for fault in played.faults:
                watch.on_fault(fault)
            self._scheduler.finished(played.episode)
            watch.on_episode(played.episode)

    def update(self, episodes: Sequence[Episode], round_index: int, watch: Watch) -> dict[str, float]:
        """See :class:`WorkerGroup`."""
        torch.set_num_threads(self.config.system.learner_threads)
        return self.learner.update(episodes, round_index)

    def drain(self, watch: Watch) -> None:
        """See :class:`WorkerGroup`. All samples have been passed on already."""

    def state(self) -> LearnerState:
        """See :class:`WorkerGroup`."""
        return self.learner.state()

    def load(self, state: LearnerState) -> None:
        """See :class:`WorkerGroup`."""
        self.learner.load(state)


def _direct(receive: Callable[[Sequence[Record]], None]) -> Send:
    """A sender to a receiver in this process; nothing is lost."""

    def send(batch: SampleBatch) -> None:
        receive([batch.state, *batch.samples])

    return send
