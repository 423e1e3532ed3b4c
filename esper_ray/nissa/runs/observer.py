"""The interface of observers of a training run: progress, metrics, sinks, viewers, tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.nissa.metrics.exporter import Exporter
from esper_ray.nissa.runs.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class RunContext:
    """Description of a run for observers, at its start."""

    config: RunConfig
    """The configuration of the run."""
    run: RunDirectory
    """The run directory, for paths and earlier rounds."""
    rounds_done: int
    """Rounds that were finished before; more than 0 in a resumed run."""
    resumed: bool
    """Whether the run continues from a checkpoint, that of the untrained policy included."""
    workers: str
    """One line about the workers: what they need before they have started, where they are afterwards."""
    report_fault: Callable[[Fault], None]
    """Records a fault of the run and passes it to all observers."""
    exporter: Exporter | None = None
    """Exports metrics from the cluster of the workers, while they run."""
    links: dict[str, str] = field(default_factory=dict)
    """Addresses of other views of the run, by name. Observers add theirs when the run starts."""


class RunObserver:
    """Observer of a run. Every method does nothing; a subclass overrides what it needs.

    Weights, rewards and events never depend on an observer. One that raises after the run has started receives
    nothing more but the end, and the run records a fault.
    """

    def run_opened(self, context: RunContext) -> None:
        """The run directory exists; the workers have not been started."""

    def run_started(self, context: RunContext) -> None:
        """The workers have been started. Errors raised here end the run."""

    def episode_finished(self, episode: Episode) -> None:
        """An episode has arrived."""

    def samples_received(self, records: Sequence[Record]) -> None:
        """Samples and steps of episodes in play have arrived. Some may be lost."""

    def update_started(self) -> None:
        """All episodes of the round have arrived; the learner updates the policy."""

    def update_finished(self) -> None:
        """The policy is updated; the round is being saved."""

    def round_logged(self, records: Sequence[Record]) -> None:
        """Receive the events of a round as a whole. The events of episodes come with the episodes."""

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        """A round has been learned from and saved.

        Args:
            row: the line of ``rounds.csv``.
            timing: the line of ``timings.csv``, in seconds.
        """

    def fault_occurred(self, fault: Fault) -> None:
        """A process or a place failed, or recovered; the run continues."""

    def run_ended(self, status: str) -> None:
        """The run is ``finished``, ``interrupted`` or ``failed``. Called once, if ``run_opened`` was called."""
