"""Publisher of a run's metrics, from its events, the clock and the driver."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from esper_ray.leyline.actions import head_sizes
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.metrics import METRICS, STATES
from esper_ray.nissa.log.finite import finite_record
from esper_ray.nissa.log.validation import source_of
from esper_ray.nissa.metrics.exporter import Exporter
from esper_ray.nissa.metrics.projection import Change, MetricsProjection
from esper_ray.nissa.state.run_state import RunState

logger = logging.getLogger(__name__)

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)


class MetricsPublisher:
    """Metrics of one run for one exporter. If the exporter fails, that is logged once and the run continues."""

    def __init__(self, config: RunConfig, exporter: Exporter, now: Callable[[], float] = time.time) -> None:
        self._exporter, self._now, self._broken = exporter, now, False
        self._last_record, self._silence = now(), 0.0
        self.folded = RunState()
        """State of the run after the published records."""
        self._projection = MetricsProjection(config.growth.slots, head_choices(config))
        info = (config.task.name, config.reward.mode, "tamiyo", config.digest()[:12])
        self._apply([Change("esper_run_info", 1, info), Change("esper_rounds_target", config.ppo.rounds)])

    def state(self, state: str) -> None:
        """Publish the state of the run, one of ``STATES``."""
        self._apply(Change("esper_run_state", float(name == state), (name,)) for name in STATES)

    def records(self, records: Iterable[Record]) -> None:
        """Publish events, which are in their order."""
        moment = self._moment()
        self._apply([Change("esper_longest_silence_seconds", self._silence)])
        self._apply(self._event_changes(records, moment))

    def resume(self, records: Iterable[Record]) -> None:
        """Publish the gauges of a resumed run after these events; counters start at 0."""
        changes = (change for record in records for change in self._advance(record))
        self._apply([change for change in changes if METRICS[change.metric].type == "gauge"])

    def samples(self, records: Iterable[Record]) -> None:
        """Publish samples, and steps of episodes in play."""
        self._apply(self._sample_changes(records, self._moment()))

    def lost(self, count: int, reason: str) -> None:
        """Publish that this process has lost ``count`` samples."""
        self._apply([Change("esper_telemetry_dropped_total", count, ("sample", reason))])

    def malformed(self, count: int) -> None:
        """Publish that the event log holds ``count`` more records that do not match their declaration."""
        self._apply([Change("esper_telemetry_dropped_total", count, ("evidence", "malformed"))])

    def timed(self, timing: Mapping[str, float]) -> None:
        """Publish a line of ``timings.csv``: durations and speed of a round."""
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
        """Publish a fault of a process, or its repair."""
        self._apply([Change("esper_faults_total", 1, (kind,))])

    def _moment(self) -> float:
        """The time now, after noting how long no record has come."""
        moment = self._now()
        self._silence, self._last_record = max(self._silence, moment - self._last_record), moment
        return moment

    def _advance(self, record: Record) -> Iterator[Change]:
        """Advance the state by ``record`` as the log has it, and give the changes.

        A record that does not match its declaration causes none; :meth:`malformed` counts it.
        """
        finite, before = finite_record(record), self.folded
        try:
            self.folded = before.apply(finite)
            return iter(list(self._projection.changes(before, finite, self.folded)))
        except _MALFORMED as error:
            logger.warning("a record of kind %s has no metrics: %r", record.get("kind"), error)
            return iter(())

    def _preview(self, record: Record) -> Iterator[Change]:
        finite = finite_record(record)
        before, self.folded = self.folded, self.folded.preview(finite)
        return self._projection.preview(before, finite, self.folded)

    def _sample_changes(self, records: Iterable[Record], moment: float) -> Iterator[Change]:
        yield Change("esper_longest_silence_seconds", self._silence)
        yield Change("esper_last_event_timestamp_seconds", moment, ("env",))
        for record in records:
            yield from self._preview(record) if record["kind"] == "env_epoch" else self._advance(record)

    def _event_changes(self, records: Iterable[Record], moment: float) -> Iterator[Change]:
        for record in records:
            source = source_of(record).partition("-")[0]
            yield Change("esper_last_event_timestamp_seconds", moment, (source,))
            yield from self._advance(record)

    def _apply(self, changes: Iterable[Change]) -> None:
        if self._broken:
            return
        try:
            self._exporter.apply(changes)
        except Exception:
            self._broken = True
            logger.exception("the exporter failed; no more metrics are exported")


def head_choices(config: RunConfig) -> dict[str, int]:
    """Greatest number of legal choices, by head."""
    growth = config.growth
    limited = {"blueprint": len(growth.blueprints), "style": len(growth.styles)}
    return head_sizes(len(growth.slots)) | limited
