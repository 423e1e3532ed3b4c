"""Scheduler of episodes: which episode a device plays next, and what happens after a failure."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.snapshots import Behaviour
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.policy import Episode


@dataclass(slots=True)
class EpisodeTask:
    """An episode to be played, with its failures so far."""

    assignment: Assignment
    behaviour: Behaviour
    weights: Any
    failures: int = 0
    """Failures in a row without progress."""
    stamp: str | None = None
    """Stamp of the snapshot at the last failure."""
    began: float = field(default=0.0)
    """When it was last dispatched, on the monotonic clock."""
    late: bool = False
    """Whether it was reported as a straggler."""
    suspect: bool = False
    """Whether a process died that played it and others. It then runs alone."""


class EpisodeScheduler:
    """Queue of episodes for devices, and the episodes that have arrived.

    If all devices are of one kind, the next free device gets the next episode: it depends on its seed and
    the policy only. Devices of different kinds keep their own environments, so that results do not depend on
    their speed.

    The death of a process that plays one episode counts against the environment of that episode. If the process plays
    several, the cause is unknown: no failure is counted, and each of them is repeated in a process that plays
    nothing else. The next death then has one possible cause.
    """

    def __init__(self, devices: Sequence[str], tries: int) -> None:
        """
        Args:
            devices: those of the run, assigned to environments in turn.
            tries: failures in a row after which an environment is quarantined.
        """
        self._devices = devices
        self._shared = len({device.partition(":")[0] for device in devices}) == 1
        self._tries = tries
        self._queue: deque[EpisodeTask] = deque()
        self._episodes: dict[int, Episode] = {}
        self.quarantined: dict[int, str] = {}

    def begin(self, tasks: Iterable[EpisodeTask]) -> None:
        """Add tasks to the end of the queue."""
        self._queue.extend(tasks)

    def next(self, device: str, sharing: Iterable[EpisodeTask] = ()) -> EpisodeTask | None:
        """The next task for a process on ``device``; ``None`` if there is none.

        Args:
            sharing: tasks that the process is playing. A suspect task shares a process with no other one.
        """
        playing = list(sharing)
        if any(task.suspect for task in playing):
            return None
        for task in self._queue:
            if task.assignment.env in self.quarantined or (task.suspect and playing):
                continue
            if self._shared or self._devices[task.assignment.env % len(self._devices)] == device:
                self._queue.remove(task)
                task.began, task.late = time.monotonic(), False
                return task
        return None

    def finished(self, episode: Episode) -> None:
        """Note an episode that has arrived."""
        self._episodes[episode.index] = episode

    def failed(self, task: EpisodeTask, error: str, stamp: str | None, *, shared: bool = False) -> Fault:
        """Put a failed task at the head of the queue, or quarantine its environment.

        Args:
            stamp: of the newest snapshot of the episode; a new one means progress.
            shared: its process died, and had been playing other tasks too. The failure is not counted.
        """
        if shared:
            return self._suspected(task, error)
        task.failures = task.failures + 1 if stamp == task.stamp else 1
        task.stamp = stamp
        env, subject = task.assignment.env, f"environment {task.assignment.env}, episode {task.assignment.index}"
        if task.failures < self._tries:
            self._queue.appendleft(task)
            return Fault("episode_failed", subject, error)
        self.quarantined[env] = error
        return Fault("environment_quarantined", subject, f"failed {task.failures} times without progress: {error}")

    def _suspected(self, task: EpisodeTask, error: str) -> Fault:
        task.suspect = True
        self._queue.appendleft(task)
        subject = f"environment {task.assignment.env}, episode {task.assignment.index}"
        return Fault("episode_failed", subject, f"{error}; not counted, because it shared its process; repeated alone")

    def done(self, assignments: Sequence[Assignment]) -> bool:
        """Whether all of ``assignments`` have arrived or belong to quarantined environments."""
        return all(a.index in self._episodes or a.env in self.quarantined for a in assignments)

    def pop_episodes(self, assignments: Sequence[Assignment]) -> list[Episode]:
        """The episodes of ``assignments`` in their order; they leave the scheduler."""
        episodes = [self._episodes.pop(a.index, None) for a in assignments]
        return [episode for episode in episodes if episode is not None]


def straggler_faults(tasks: Iterable[EpisodeTask], limit_s: float | None) -> list[Fault]:
    """One fault for each task that has run longer than the limit. A task is reported once and continues."""
    if limit_s is None:
        return []
    faults, now = [], time.monotonic()
    for task in tasks:
        if not task.late and now - task.began > limit_s:
            task.late = True
            subject = f"environment {task.assignment.env}, episode {task.assignment.index}"
            faults.append(
                Fault("straggler", subject, f"still being played, the limit is {limit_s:g} s", now - task.began)
            )
    return faults
