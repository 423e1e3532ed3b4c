"""Who does the work of a round: the interface that the controller drives."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from actors.ppo import LearnerState
from actors.rollout import Assignment
from esper_ray.leyline.policy import Episode

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
