"""Tells an exporter what a run does: events by folding them, and what only the clock and the driver know."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from esper_ray.leyline.actions import head_sizes
from esper_ray.leyline.config.run import RunConfig
from esper_ray.nissa.catalogue.metrics import METRICS, STATES
from esper_ray.nissa.log.events import source_of
from esper_ray.nissa.metrics.exporter import Exporter
from esper_ray.nissa.metrics.reducer import Change, MetricsReducer

logger = logging.getLogger(__name__)


class MetricsPublisher:
    """One run for one exporter. An exporter that fails is reported once and left alone; the run goes on."""

    def __init__(self, config: RunConfig, exporter: Exporter, now: Callable[[], float] = time.time) -> None:
        self._exporter, self._now, self._broken = exporter, now, False
        self._heard, self._silence = now(), 0.0
        self._fold = MetricsReducer(config.growth.slots, head_choices(config))
        info = (config.task.name, config.reward.mode, "tamiyo", config.digest()[:12])
        self._apply([Change("esper_run_info", 1, info), Change("esper_rounds_target", config.ppo.rounds)])

    def state(self, state: str) -> None:
        """The run is in this state, one of ``STATES``."""
        self._apply(Change("esper_run_state", float(one == state), (one,)) for one in STATES)

    def records(self, records: Iterable[Mapping[str, Any]]) -> None:
        """These events have happened, in this order."""
        moment = self._now()
        self._silence, self._heard = max(self._silence, moment - self._heard), moment
        self._apply([Change("esper_longest_silence_seconds", self._silence)])
        self._apply(self._folded(records, moment))

    def resume(self, records: Iterable[Mapping[str, Any]]) -> None:
        """The run goes on after these events: gauges show what they say, counters begin anew."""
        told = (change for record in records for change in self._fold.changes(record))
        self._apply([change for change in told if METRICS[change.metric].type == "gauge"])

    def samples(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Samples have arrived, and steps of episodes that are being played."""
        moment = self._now()
        self._silence, self._heard = max(self._silence, moment - self._heard), moment
        self._apply(self._watched(records, moment))

    def lost(self, count: int, reason: str) -> None:
        """So many samples were lost on this side."""
        self._apply([Change("esper_telemetry_dropped_total", count, ("sample", reason))])

    def timed(self, timing: Mapping[str, float]) -> None:
        """A line of ``timings.csv``: how long a round played and learnt, and how fast."""
        play, update = timing["play_seconds"], timing["update_seconds"]
        self._apply(
            [
                Change("esper_phase_duration_seconds", play, ("play",)),
                Change("esper_phase_duration_seconds", update, ("update",)),
                Change("esper_round_duration_seconds", play + update),
                Change("esper_env_steps_per_second", timing["env_steps_per_second"]),
            ]
        )

    def fault(self, kind: str) -> None:
        """Something went wrong with processes, or is right again."""
        self._apply([Change("esper_faults_total", 1, (kind,))])

    def _watched(self, records: Iterable[Mapping[str, Any]], moment: float) -> Iterator[Change]:
        yield Change("esper_longest_silence_seconds", self._silence)
        yield Change("esper_last_event_timestamp_seconds", moment, ("env",))
        for record in records:
            preview = record["kind"] == "env_epoch"
            yield from self._fold.preview(record) if preview else self._fold.changes(record)

    def _folded(self, records: Iterable[Mapping[str, Any]], moment: float) -> Iterator[Change]:
        for record in records:
            source = source_of(record).partition("-")[0]
            yield Change("esper_last_event_timestamp_seconds", moment, (source,))
            yield from self._fold.changes(record)

    def _apply(self, changes: Iterable[Change]) -> None:
        if self._broken:
            return
        try:
            self._exporter.apply(changes)
        except Exception:
            self._broken = True
            logger.exception("metrics are not exported any more")


def head_choices(config: RunConfig) -> dict[str, int]:
    """How many legal choices each head has at most."""
    growth = config.growth
    limited = {"blueprint": len(growth.blueprints), "style": len(growth.styles)}
    return head_sizes(len(growth.slots)) | limited
