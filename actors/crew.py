"""Who does the work of a round: the interface that the controller drives, and the crew of one process."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, Self

import torch

from actors.ppo import LearnerState, PPOLearner
from actors.rollout import Assignment, EpisodeRunner
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.policy import Episode
from policies.tamiyo import LearnedPolicy

ShouldStop = Callable[[], bool]
OnEpisode = Callable[[Episode], None]


class Crew(AbstractContextManager["Crew"], Protocol):
    """A learner and some environments. Used within ``with``, which ends what was started."""

    def describe(self) -> str:
        """One line about who works where."""

    def play(
        self, assignments: Sequence[Assignment], epsilon: float, on_episode: OnEpisode, should_stop: ShouldStop
    ) -> list[Episode]:
        """Play all assignments with the learner's present policy.

        Returns:
            The episodes in the order of ``assignments``, whenever each arrived.

        Raises:
            Interrupted: if ``should_stop`` said so before all had arrived.
        """

    def update(self, episodes: Sequence[Episode], round_index: int) -> dict[str, float]:
        """Learn from ``episodes``; diagnostics by name."""

    def state(self) -> LearnerState:
        """Everything that the learner would need to go on."""

    def load(self, state: LearnerState) -> None:
        """Make the learner go on from ``state``."""


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


def make_crew(config: RunConfig, *, serial: bool) -> Crew:
    """The crew of one process, or the one on Ray."""
    if serial:
        return SerialCrew(config)
    from actors.settings import choose_ray_settings

    choose_ray_settings()
    from actors.cluster import RayCrew

    return RayCrew(config)
