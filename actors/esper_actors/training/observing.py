"""Between the controller and whoever watches a run: exporters of metrics, the log of samples. No Ray in here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from esper_actors.rollout.sampling import Record
from esper_actors.training.controller import Listener
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.faults import Fault
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.metrics.exporter import Exporter
from esper_ray.nissa.metrics.publisher import MetricsPublisher
from esper_ray.nissa.runs.run_directory import RunDirectory


class MetricsObserver:
    """Listens, tells the exporter, and passes everything on. Without an exporter samples are kept all the same."""

    def __init__(self, config: RunConfig, run: RunDirectory, exporter: Exporter | None, inner: Listener) -> None:
        self._run, self._inner, self._envs = run, inner, config.system.envs
        self._sampling, self._full = config.telemetry.level != "off", False
        self.feed = None if exporter is None else MetricsPublisher(config, exporter)
        self.rounds = 0
        """Number of the last round that was finished, from 1."""

    def resumed(self) -> None:
        """The run goes on: what is known of it is shown again."""
        if self.feed is not None:
            self.feed.resume(self._run.event_log.of_kinds(("round", "control", "anomaly", "environment_quarantined")))

    def sampled(self, records: Sequence[Record]) -> None:
        """Samples have arrived, and steps of episodes that are being played. The run does not depend on it."""
        if not self._sampling:
            return
        kept = [record for record in records if KINDS[record["kind"]].delivery == "sample"]
        lost = self._run.samples.add(kept) if not self._full else len(kept)
        self._full |= lost > 0
        if self.feed is not None:
            self.feed.samples(records)
            if lost:
                self.feed.lost(lost, "full")

    def happened(self, records: Sequence[Record]) -> None:
        """These events are about a round as a whole."""
        if self.feed is not None:
            self.feed.records(records)

    def episode_finished(self, episode: Episode) -> None:
        """An episode has arrived."""
        if self.feed is not None:
            self.feed.records([{**record, "round": episode.index // self._envs} for record in episode.log])
        self._inner.episode_finished(episode)

    def updating(self) -> None:
        """The learner is at work."""
        self._inner.updating()

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        """A round has been learnt from and saved."""
        if self.feed is not None:
            self.feed.timed(timing)
        self.rounds = int(row["round"]) + 1
        self._inner.round_finished(row, timing)

    def fault_happened(self, fault: Fault) -> None:
        """Something went wrong, or is right again."""
        if self.feed is not None:
            self.feed.fault(fault.kind)
        self._inner.fault_happened(fault)


@contextmanager
def observed(
    config: RunConfig, run: RunDirectory, exporter: Exporter | None, inner: Listener, state: str = "training"
) -> Iterator[MetricsObserver]:
    """``inner``, and everything that it hears for the exporter as well, which is told how the run ends.

    Args:
        state: of the run until then.
    """
    observing = MetricsObserver(config, run, exporter, inner)
    feed = observing.feed
    if feed is None:
        yield observing
        return
    feed.state(state)
    try:
        yield observing
    except BaseException:
        feed.state("failed")
        raise
    feed.state("finished" if observing.rounds >= config.ppo.rounds else "interrupted")
