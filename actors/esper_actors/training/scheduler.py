"""Which episode is played next, by whom, and what becomes of one that fails. No Ray in here."""

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
    """An episode to be played, and how often that has failed."""

    assignment: Assignment
    behaviour: Behaviour
    weights: Any
    failures: int = 0
    """In a row, without a step forward."""
    stamp: str | None = None
    """Of what was kept of the episode when it last failed."""
    began: float = field(default=0.0)
    """When it was last handed out, on the monotonic clock."""
    late: bool = False
    """Whether it was reported as a straggler."""


class EpisodeScheduler:
    """Deals jobs to devices and collects episodes.

    Where all devices are of one kind an episode goes to whoever is free: it depends on its seed and the
    policy only. On unequal ones every device keeps its own environments, so that results do not depend
    on who is fast.
    """

    def __init__(self, devices: Sequence[str], tries: int) -> None:
        """
        Args:
            devices: those of the run, dealt out in turn.
            tries: failures in a row after which an environment is given up.
        """
        self._devices = devices
        self._shared = len({device.partition(":")[0] for device in devices}) == 1
        self._tries = tries
        self._queue: deque[EpisodeTask] = deque()
        self._episodes: dict[int, Episode] = {}
        self.quarantined: dict[int, str] = {}

    def begin(self, jobs: Iterable[EpisodeTask]) -> None:
        """Add jobs to the end of the queue."""
        self._queue.extend(jobs)

    def next(self, device: str) -> EpisodeTask | None:
        """The job that ``device`` is to play now; ``None`` if there is none for it."""
        for job in self._queue:
            if job.assignment.env in self.quarantined:
                continue
            if self._shared or self._devices[job.assignment.env % len(self._devices)] == device:
                self._queue.remove(job)
                job.began, job.late = time.monotonic(), False
                return job
        return None

    def finished(self, episode: Episode) -> None:
        """Note an episode that has arrived."""
        self._episodes[episode.index] = episode

    def failed(self, job: EpisodeTask, error: str, stamp: str | None) -> Fault:
        """Put a job that failed at the head of the queue, or give its environment up.

        Args:
            stamp: of what has been kept of the episode; a new one means a step forward.
        """
        job.failures = job.failures + 1 if stamp == job.stamp else 1
        job.stamp = stamp
        env, who = job.assignment.env, f"environment {job.assignment.env}, episode {job.assignment.index}"
        if job.failures < self._tries:
            self._queue.appendleft(job)
            return Fault("episode_failed", who, error)
        self.quarantined[env] = error
        return Fault("environment_quarantined", who, f"failed {job.failures} times without a step forward: {error}")

    def put_back(self, job: EpisodeTask) -> None:
        """Put a job at the head of the queue that was not even begun."""
        self._queue.appendleft(job)

    def done(self, assignments: Sequence[Assignment]) -> bool:
        """Whether all of ``assignments`` have been played or given up."""
        return all(a.index in self._episodes or a.env in self.quarantined for a in assignments)

    def collected(self, assignments: Sequence[Assignment]) -> list[Episode]:
        """The episodes of ``assignments`` in their order; they are forgotten here."""
        found = [self._episodes.pop(a.index, None) for a in assignments]
        return [episode for episode in found if episode is not None]


def straggler_faults(jobs: Iterable[EpisodeTask], limit_s: float | None) -> list[Fault]:
    """Those of ``jobs`` that have been played for longer than the limit; each is reported once and goes on."""
    if limit_s is None:
        return []
    faults, now = [], time.monotonic()
    for job in jobs:
        if not job.late and now - job.began > limit_s:
            job.late = True
            who = f"environment {job.assignment.env}, episode {job.assignment.index}"
            faults.append(Fault("straggler", who, f"still being played, the limit is {limit_s:g} s", now - job.began))
    return faults
