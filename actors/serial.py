"""The crew of one process, without Ray."""

from collections.abc import Sequence
from typing import Self

import torch

from actors.crew import OnEpisode, ShouldStop
from actors.ppo import LearnerState, PPOLearner
from actors.rollout import Assignment, EpisodeRunner
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.policy import Episode
from policies.tamiyo import LearnedPolicy


class SerialCrew:
    """Everything in this process, one episode after another."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        torch.set_num_threads(config.system.threads)
        self.learner = PPOLearner(config)
        self.policies = {device: LearnedPolicy(config.policy, device) for device in config.system.devices}
        self.runners = {d: EpisodeRunner(MorphogenesisEnv(config, d), p) for d, p in self.policies.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def describe(self) -> str:
        """One line about who works where."""
        return f"serial: one process, environments on {', '.join(self.runners)}, learner on {self.config.system.device}"

    def play(
        self, assignments: Sequence[Assignment], epsilon: float, on_episode: OnEpisode, should_stop: ShouldStop
    ) -> list[Episode]:
        """See :class:`Crew`."""
        weights, episodes = self.learner.weights(), []
        torch.set_num_threads(self.config.system.threads)
        for policy in self.policies.values():
            policy.load(weights, epsilon)
        devices = self.config.system.devices
        for assignment in assignments:
            runner = self.runners[devices[assignment.env % len(devices)]]
            episodes.append(runner.play(assignment, should_stop))
            on_episode(episodes[-1])
        return episodes

    def update(self, episodes: Sequence[Episode], round_index: int) -> dict[str, float]:
        """See :class:`Crew`."""
        torch.set_num_threads(self.config.system.learner_threads)
        return self.learner.update(episodes, round_index)

    def state(self) -> LearnerState:
        """See :class:`Crew`."""
        return self.learner.state()

    def load(self, state: LearnerState) -> None:
        """See :class:`Crew`."""
        self.learner.load(state)
