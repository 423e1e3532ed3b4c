"""A listener that brings the numbers of rounds to sinks, and tells what they could not do. No Ray in here."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from esper_actors.training.controller import Listener
from esper_ray.leyline.faults import Fault
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.sinks.delivery import Delivery
from esper_ray.nissa.sinks.protocol import scalar_values


class SinkObserver:
    """Passes everything on, and the numbers of rounds to the sinks as well."""

    def __init__(self, delivery: Delivery, run: RunDirectory, inner: Listener) -> None:
        self._delivery, self._run, self._inner = delivery, run, inner

    def episode_finished(self, episode: Episode) -> None:
        """An episode has arrived."""
        self._inner.episode_finished(episode)

    def updating(self) -> None:
        """The learner is at work."""
        self._inner.updating()

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        """A round has been learnt from and saved."""
        self._delivery.round(scalar_values(row, timing), row["round"])
        self._report(row["round"])
        self._inner.round_finished(row, timing)

    def fault_happened(self, fault: Fault) -> None:
        """Something went wrong, or is right again."""
        self._inner.fault_happened(fault)

    def _report(self, round_index: int) -> None:
        for fault in faults_of(self._delivery):
            self._run.add_fault({"round": round_index, **asdict(fault)})
            self._inner.fault_happened(fault)


def faults_of(delivery: Delivery) -> list[Fault]:
    """What sinks could not do since the last time."""
    return [Fault("sink_failed", problem.sink, problem.what) for problem in delivery.problems()]


def close_delivery(
    delivery: Delivery, run: RunDirectory, status: str, picture: Path | None, patience_s: float
) -> list[Fault]:
    """End the sinks of a run that is over; what they could not do is in ``faults.jsonl``, too."""
    delivery.close(status, picture, patience_s)
    faults = faults_of(delivery)
    for fault in faults:
        run.add_fault({"round": None, **asdict(fault)})
    return faults
