"""A listener that tells an exporter what a run does, and passes everything on. No Ray in here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from actors.controller import Listener
from actors.crew import Fault
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.exposition import Exporter
from esper_ray.nissa.feed import Feed


class Observing:
    """Between the controller and whoever shows the run."""

    def __init__(self, feed: Feed, inner: Listener) -> None:
        self._feed, self._inner = feed, inner
        self.rounds = 0
        """Number of the last round that was finished, from 1."""

    def episode_finished(self, episode: Episode) -> None:
        """An episode has arrived."""
        self._feed.records(episode.log)
        self._inner.episode_finished(episode)

    def updating(self) -> None:
        """The learner is at work."""
        self._inner.updating()

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        """A round has been learnt from and saved."""
        self._feed.records([{"kind": "ppo_update", **row}, {"kind": "round", **row}])
        self._feed.phase("play", timing["play_seconds"])
        self._feed.phase("update", timing["update_seconds"])
        self._feed.throughput(timing["env_steps_per_second"])
        self.rounds = int(row["round"]) + 1
        self._inner.round_finished(row, timing)

    def fault_happened(self, fault: Fault) -> None:
        """Something went wrong, or is right again."""
        self._feed.fault(fault.kind)
        self._inner.fault_happened(fault)


@contextmanager
def observed(config: RunConfig, exporter: Exporter | None, inner: Listener) -> Iterator[Listener]:
    """``inner``, and everything that it hears for the exporter as well, which is told how the run ends."""
    if exporter is None:
        yield inner
        return
    feed = Feed(config, exporter)
    observing = Observing(feed, inner)
    feed.state("training")
    try:
        yield observing
    except BaseException:
        feed.state("failed")
        raise
    feed.state("finished" if observing.rounds >= config.ppo.rounds else "interrupted")
