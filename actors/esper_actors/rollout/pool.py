"""Several environments in one process that play at the same time. It does not import Ray.

On a GPU each has a CUDA stream of its own, so that small networks fill the device together; the data
are there once for all of them.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from esper_actors.rollout.mixed_runner import MixedRunner
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner, never
from esper_actors.rollout.sampling import Sampler, Send, StreamSummary
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.task_mix import members
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.policy import Episode


@dataclass(frozen=True, slots=True)
class _Environment:
    policy: LearnedPolicy
    runner: MixedRunner
    stream: "torch.cuda.Stream | None"

    def current(self) -> "AbstractContextManager[object]":
        """Context in which work is queued on the stream of this environment."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


@dataclass(frozen=True, slots=True)
class PlayedEpisode:
    """An episode, the seconds it took here, and the summary of its samples."""

    episode: Episode
    seconds: float
    summary: StreamSummary | None = None
    """Of its samples, if it was sampled."""
    faults: tuple[Fault, ...] = ()
    """Snapshots that were refused."""


def episode_ids(assignment: Assignment, behaviour: Behaviour) -> dict[str, int]:
    """Numbers of round, episode and environment."""
    return {"round": behaviour.round_index, "episode": assignment.index, "env": assignment.env}


class EnvironmentPool:
    """Environments on one device, each with a copy of the policy. :meth:`play` may be called from several threads."""

    def __init__(self, config: RunConfig, device: str, count: int, snapshots: SnapshotPolicy | None = None) -> None:
        """
        Args:
            snapshots: where unfinished episodes are saved; without it, nowhere.
        """
        self._environments = [self._build(config, device) for _ in range(count)]
        self._snapshots, self._telemetry = snapshots, config.telemetry
        self._free: SimpleQueue[_Environment] = SimpleQueue()
        for environment in self._environments:
            self._free.put(environment)

    def play(
        self,
        assignment: Assignment,
        behaviour: Behaviour,
        weights: Mapping[str, torch.Tensor],
        should_stop: Callable[[], bool] = never,
        send: Send | None = None,
    ) -> PlayedEpisode:
        """Play or resume one episode in the next free environment.

        An episode with a snapshot is resumed from the newest one.

        Args:
            send: receives samples while the episode is played.

        Raises:
            Interrupted: if ``should_stop`` is true between two steps.
        """
        began = time.monotonic()
        snapshots = None if self._snapshots is None else self._snapshots.for_round(behaviour)
        sampler = None if send is None else Sampler(self._telemetry, send, episode_ids(assignment, behaviour))
        environment, faults = self._free.get(), list[Fault]()
        try:
            with environment.current():
                environment.policy.load(dict(weights), behaviour.epsilon)
                runner = environment.runner.runner_of(assignment)
                episode = runner.play(assignment, should_stop, snapshots, sampler, faults.append)
        finally:
            self._free.put(environment)
        summary = None if sampler is None else sampler.summary()
        return PlayedEpisode(episode, time.monotonic() - began, summary, tuple(faults))

    @staticmethod
    def _build(config: RunConfig, device: str) -> _Environment:
        policy = LearnedPolicy(config.policy, device)
        controls = 0 if config.telemetry.level == "off" else min(config.telemetry.control_episodes, config.system.envs)
        shares = [
            (member.share, EpisodeRunner(MorphogenesisEnv(member.config, device), policy, controls))
            for member in members(config)
        ]
        runner, stream = MixedRunner(shares), None
        if device.startswith("cuda"):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))  # it creates data and weights
        return _Environment(policy, runner, stream)
