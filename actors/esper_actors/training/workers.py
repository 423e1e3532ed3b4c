"""Who does the work of a round: the interface that the controller drives."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_actors.training.ppo_learner import LearnerState
from esper_policies.bundle import weights_digest
from esper_ray.leyline.errors import Fault, UserError
from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.nissa.metrics.exporter import Exporter

ShouldStop = Callable[[], bool]
Weights = Mapping[str, torch.Tensor]


class WorkerGroupError(UserError):
    """A worker group without a healthy worker."""

    exit_code = 1
    remedy = "Read the last error of a worker in `faults.jsonl`, correct its cause, and resume the run."


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what while a workers works."""

    on_episode: Callable[[Episode], None]
    on_fault: Callable[[Fault], None]
    should_stop: ShouldStop
    on_samples: Callable[[Sequence[Record]], None] | None = None
    """Told how far episodes are; nobody: nothing is sampled."""


QUIET = Watch(lambda _: None, lambda _: None, lambda: False)
"""Nobody."""


class WorkerGroup(AbstractContextManager["WorkerGroup"], Protocol):
    """A learner and some environments. Used within ``with``, which ends what was started."""

    snapshots: SnapshotPolicy | None
    """Where episodes are kept while they are played."""

    @property
    def exporter(self) -> Exporter | None:
        """Shows metrics where the workers works, while it works; not closed by whoever uses it."""

    @property
    def quarantined(self) -> Mapping[int, str]:
        """Environments that are given up, with their last error. They get no more episodes."""

    def plan(self) -> str:
        """One line about what is needed, before anything is started."""

    def describe(self) -> str:
        """One line about who works where."""

    def begin(self, assignments: Sequence[Assignment], behaviour: Behaviour, weights: Weights) -> None:
        """Have these episodes played, after those that were begun earlier."""

    def collect(self, assignments: Sequence[Assignment], watch: Watch) -> list[Episode]:
        """Wait for episodes that were begun.

        Returns:
            The episodes in the order of ``assignments``, whenever each arrived; without those of environments
            that are given up.

        Raises:
            Interrupted: if ``watch.should_stop`` said so before all had arrived.
            WorkerGroupError: if nobody is left to play.
        """

    def update(self, episodes: Sequence[Episode], round_index: int, watch: Watch) -> dict[str, float]:
        """Learn from ``episodes``; diagnostics by name.

        Raises:
            Interrupted: if ``watch.should_stop`` said so before it was done.
            WorkerGroupError: if the learner dies again and again.
        """

    def drain(self, watch: Watch) -> None:
        """No more rounds: wait a moment for samples that have not arrived yet, and tell how many are lost."""

    def state(self) -> LearnerState:
        """Everything that the learner would need to go on."""

    def load(self, state: LearnerState) -> None:
        """Make the learner go on from ``state``."""


def play_round(
    workers: WorkerGroup, assignments: Sequence[Assignment], epsilon: float, watch: Watch = QUIET, round_index: int = 0
) -> list[Episode]:
    """Have episodes played with the learner's present policy, and wait for them."""
    weights = workers.state().weights()
    workers.begin(assignments, Behaviour(round_index, round_index, weights_digest(weights), epsilon), weights)
    return workers.collect(assignments, watch)
