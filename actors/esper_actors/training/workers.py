"""The interface of worker groups, which the controller drives."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_actors.training.learner.state import LearnerState
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
    """Callbacks of a worker group."""

    on_episode: Callable[[Episode], None]
    on_fault: Callable[[Fault], None]
    should_stop: ShouldStop
    on_samples: Callable[[Sequence[Record]], None] | None = None
    """Called with samples of episodes in play; without it nothing is sampled."""


QUIET = Watch(lambda _: None, lambda _: None, lambda: False)
"""No callbacks."""


class WorkerGroup(AbstractContextManager["WorkerGroup"], Protocol):
    """A learner and some environments. ``with`` starts and stops them."""

    snapshots: SnapshotPolicy | None
    """Where unfinished episodes are saved."""

    @property
    def exporter(self) -> Exporter | None:
        """Exports metrics from the place of the workers. The group closes it."""

    @property
    def links(self) -> Mapping[str, str]:
        """Addresses of views of the running group, by name, such as ``ray``."""

    @property
    def quarantined(self) -> Mapping[int, str]:
        """Quarantined environments, with their last error. They get no more episodes."""

    def plan(self) -> str:
        """One line about the resources that are needed; nothing has to be started for it."""

    def describe(self) -> str:
        """One line about the placement of the workers."""

    def begin(self, assignments: Sequence[Assignment], behaviour: Behaviour, weights: Weights) -> None:
        """Queue episodes, after those that were queued before."""

    def collect(self, assignments: Sequence[Assignment], watch: Watch) -> list[Episode]:
        """Wait for queued episodes.

        Returns:
            The episodes in the order of ``assignments``, without those of quarantined environments.

        Raises:
            Interrupted: if ``watch.should_stop`` was true before all had arrived.
            WorkerGroupError: if no environment is left.
        """

    def update(self, episodes: Sequence[Episode], round_index: int, watch: Watch) -> dict[str, float]:
        """Update the policy with ``episodes``; returns diagnostics by name.

        Raises:
            Interrupted: if ``watch.should_stop`` was true before it was done.
            WorkerGroupError: if the learner dies ``system.tries`` times in one update.
        """

    def drain(self, watch: Watch) -> None:
        """After the last round: wait briefly for late samples, and report how many are lost."""

    def state(self) -> LearnerState:
        """The complete state of the learner."""

    def load(self, state: LearnerState) -> None:
        """Replace the state of the learner."""


def play_round(
    workers: WorkerGroup, assignments: Sequence[Assignment], epsilon: float, watch: Watch = QUIET, round_index: int = 0
) -> list[Episode]:
    """Play episodes with the present policy of the learner, and wait for them."""
    weights = workers.state().weights()
    workers.begin(assignments, Behaviour(round_index, round_index, weights_digest(weights), epsilon), weights)
    return workers.collect(assignments, watch)
