"""Observers of the engine: the group of observers, files for viewers, metrics with samples, and sinks."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files.durable import WriteError
from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.events import STRICT, EventLog
from esper_ray.nissa.metrics.exporter import Exporter, PrometheusExporter
from esper_ray.nissa.metrics.projection import Change
from esper_ray.nissa.metrics.publisher import MetricsPublisher
from esper_ray.nissa.runs.live_steps import LiveSteps
from esper_ray.nissa.runs.observer import RunContext, RunObserver
from esper_ray.nissa.runs.pulse import Phase, Pulse, PulseWriter
from esper_ray.nissa.sinks.delivery import DRAIN_SECONDS, Delivery
from esper_ray.nissa.sinks.protocol import RunFacts, scalar_values
from esper_ray.nissa.sinks.registry import SINKS

logger = logging.getLogger(__name__)

HURRIED_SECONDS = 1.0
"""Seconds to wait for sinks when the process exits at once."""
REPLAYED_KINDS = ("round", "control", "anomaly", "environment_quarantined")
"""Kinds of events that restore the gauges of a resumed run."""


class ObserverGroup(RunObserver):
    """All observers of a run as one. An observer that raises is dropped and reported as a fault.

    It is still notified of the end, to free what it holds. A file that it cannot write ends the run instead.
    """

    def __init__(self, observers: Iterable[RunObserver]) -> None:
        self._observers = list(observers)
        self._opened: list[RunObserver] = []
        self._report_fault: Callable[[Fault], None] = self.fault_occurred

    def run_opened(self, context: RunContext) -> None:
        self._report_fault = context.report_fault
        for observer in self._observers:
            self._opened.append(observer)
            observer.run_opened(context)

    def run_started(self, context: RunContext) -> None:
        for observer in self._observers:
            observer.run_started(context)

    def episode_finished(self, episode: Episode) -> None:
        self._each(lambda observer: observer.episode_finished(episode))

    def samples_received(self, records: Sequence[Record]) -> None:
        self._each(lambda observer: observer.samples_received(records))

    def update_started(self) -> None:
        self._each(lambda observer: observer.update_started())

    def update_finished(self) -> None:
        self._each(lambda observer: observer.update_finished())

    def round_logged(self, records: Sequence[Record]) -> None:
        self._each(lambda observer: observer.round_logged(records))

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        self._each(lambda observer: observer.round_finished(row, timing))

    def fault_occurred(self, fault: Fault) -> None:
        self._each(lambda observer: observer.fault_occurred(fault))

    def run_ended(self, status: str) -> None:
        errors: list[BaseException] = []
        while self._opened:  # each observer is notified of the end once, even if it was dropped, or others fail
            observer = self._opened.pop(0)
            try:
                self._call(observer, lambda observer: observer.run_ended(status))
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _each(self, call: Callable[[RunObserver], None]) -> None:
        for observer in tuple(self._observers):
            self._call(observer, call)

    def _call(self, observer: RunObserver, call: Callable[[RunObserver], None]) -> None:
        try:
            call(observer)
        except WriteError:  # the run directory cannot be written, by the run either
            raise
        except Exception as error:
            if os.environ.get(STRICT):
                raise
            detail = f"{type(error).__name__}: {error}"
            unwritable = isinstance(error, OSError)  # such as a full standard output: no fault of the observer's code
            message = "an observer of the run failed and is dropped: %s: %s"
            logger.error(message, type(observer).__name__, detail, exc_info=not unwritable)
            if observer in self._observers:
                self._observers.remove(observer)
                self._report_fault(Fault("observer_failed", type(observer).__name__, detail))


class ViewerFiles(RunObserver):
    """Observer that writes what viewers of a live run read: its pulse, and the steps of episodes in play.

    A file that cannot be written is reported as a fault, once until it can be written again. The run continues.
    """

    def __init__(self) -> None:
        self._pulse: PulseWriter | None = None
        self._live: LiveSteps | None = None
        self._failed: set[str] = set()
        self._episodes = Counter[int]()
        """Finished episodes by round."""
        self._round = 0

    def run_opened(self, context: RunContext) -> None:
        self._context, config, moment = context, context.config, time.time()
        self._round, level = context.rounds_done, config.telemetry.level
        if level != "off":
            self._live = LiveSteps(context.run.path)
            self._write(self._live.start)
        rounds, envs = config.ppo.rounds, config.system.envs
        self._pulse = PulseWriter(
            context.run.path, Pulse("starting", moment, moment, context.rounds_done, rounds, 0, envs, level)
        )
        self._pulse.start()

    def run_started(self, context: RunContext) -> None:
        self._report("playing", links=dict(context.links))

    def samples_received(self, records: Sequence[Record]) -> None:
        self._report()
        live = self._live
        if live is not None:
            self._write(lambda: live.add(records))

    def episode_finished(self, episode: Episode) -> None:
        self._episodes[episode.index // self._context.config.system.envs] += 1
        self._report(episodes=self._episodes[self._round])

    def update_started(self) -> None:
        self._report("learning")

    def update_finished(self) -> None:
        self._report("saving")

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        live, finished = self._live, row["round"]
        if live is not None:
            self._write(lambda: live.finish_round(finished))
        self._round = finished + 1
        self._report("playing", round=self._round, episodes=self._episodes[self._round])

    def fault_occurred(self, fault: Fault) -> None:
        self._report()

    def run_ended(self, status: str) -> None:
        if self._pulse is not None:
            self._pulse.stop(status)
            self._check_pulse(self._pulse)

    def _report(self, phase: Phase | None = None, **changes: Any) -> None:
        if self._pulse is not None:
            self._pulse.report(phase, **changes)
            self._check_pulse(self._pulse)

    def _check_pulse(self, pulse: PulseWriter) -> None:
        self._note("pulse", pulse.problem)

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except WriteError as error:
            self._note("live steps", str(error))
        else:
            self._note("live steps", None)

    def _note(self, what: str, problem: str | None) -> None:
        """Report a problem that is new."""
        if problem is None:
            self._failed.discard(what)
        elif what not in self._failed:
            self._failed.add(what)
            self._context.report_fault(Fault("viewer_file_failed", what, problem))


class SampleRecorder(RunObserver):
    """An observer that writes samples to the run directory until its limit is reached."""

    def run_started(self, context: RunContext) -> None:
        self._log, self._full = context.run.samples, False
        self.lost = 0
        """Samples that were dropped in the last call."""

    def samples_received(self, records: Sequence[Record]) -> None:
        samples = [record for record in records if KINDS[record["kind"]].delivery == "sample"]
        self.lost = len(samples) if self._full else self._log.add(samples)
        self._full |= self.lost > 0


class MetricsObserver(RunObserver):
    """Observer that records samples and exports metrics. Metrics are on a local port or exported by the cluster."""

    def __init__(
        self,
        port: int | None = None,
        *,
        exporters: Sequence[Exporter] = (),
        state: str = "training",
        samples: bool = True,
        on_serving: Callable[[str], None] = lambda url: None,
    ) -> None:
        """
        Args:
            port: port for Prometheus; 0: any free port, ``None``: no server.
            exporters: further exporters, which the caller closes.
            state: of the run until it ends, one of :data:`~esper_ray.nissa.catalogue.metrics.STATES`.
            samples: whether steps of unfinished episodes are sampled.
            on_serving: called with the address of the port.
        """
        self._port, self._exporters, self._state, self._on_serving = port, exporters, state, on_serving
        self.samples = samples
        self._recorder = SampleRecorder()
        self._stack = ExitStack()
        self._publisher: MetricsPublisher | None = None
        self._log: EventLog | None = None
        self._malformed = 0
        """Malformed records of the log that are published, or older than this process."""
        self._envs = 1

    def run_started(self, context: RunContext) -> None:
        """
        Raises:
            ExporterError: if the port is taken.
        """
        self._recorder.run_started(context)
        self._log = context.run.event_log
        self._malformed = self._log.counts.malformed
        self._envs = context.config.system.envs
        exporters = [*self._exporters, *([] if context.exporter is None else [context.exporter])]
        if self._port is not None:
            served = self._stack.enter_context(PrometheusExporter(*context.run.names, self._port))
            context.links["metrics"] = f"http://127.0.0.1:{served.port}/metrics"
            self._on_serving(context.links["metrics"])
            exporters.append(served)
        if not exporters:
            return
        self._publisher = MetricsPublisher(context.config, _CombinedExporter(exporters))
        self._publisher.state(self._state)
        if context.resumed:
            self._publisher.resume(context.run.event_log.of_kinds(REPLAYED_KINDS))

    def samples_received(self, records: Sequence[Record]) -> None:
        self._recorder.samples_received(records)
        if self._publisher is not None:
            self._publisher.samples(records)
            if self._recorder.lost:
                self._publisher.lost(self._recorder.lost, "full")

    def round_logged(self, records: Sequence[Record]) -> None:
        if self._publisher is not None:
            self._publisher.records(records)

    def episode_finished(self, episode: Episode) -> None:
        if self._publisher is not None:
            self._publisher.records([{**record, "round": episode.index // self._envs} for record in episode.log])

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        if self._publisher is not None:
            self._publisher.timed(timing)
            self._publish_malformed(self._publisher)

    def _publish_malformed(self, publisher: MetricsPublisher) -> None:
        """Publish how many records of the log have become malformed since the last time."""
        if self._log is not None and self._log.counts.malformed > self._malformed:
            publisher.malformed(self._log.counts.malformed - self._malformed)
            self._malformed = self._log.counts.malformed

    def fault_occurred(self, fault: Fault) -> None:
        if self._publisher is not None:
            self._publisher.fault(fault.kind)

    def run_ended(self, status: str) -> None:
        if self._publisher is not None:
            self._publisher.state(status)
        self._stack.close()


class _CombinedExporter:
    """Several exporters as one."""

    def __init__(self, exporters: Sequence[Exporter]) -> None:
        self._exporters = exporters

    def apply(self, changes: Iterable[Change]) -> None:
        changed = list(changes)
        for exporter in self._exporters:
            exporter.apply(changed)

    def close(self) -> None:
        for exporter in self._exporters:
            exporter.close()


class SinkObserver(RunObserver):
    """An observer that sends the scalars of rounds to sinks such as TensorBoard."""

    def __init__(self, sinks: Sequence[str]) -> None:
        """
        Args:
            sinks: names of :data:`~esper_ray.nissa.sinks.registry.SINKS`.
        """
        self._names = sinks
        self._context: RunContext | None = None

    def run_opened(self, context: RunContext) -> None:
        self._context = context
        facts = RunFacts(*context.run.names, context.run.path, context.config.flat(), context.rounds_done)
        self._delivery = Delivery((SINKS[name]() for name in self._names), facts)

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        self._delivery.round(scalar_values(row, timing), row["round"])
        self._report()

    def run_ended(self, status: str) -> None:
        if self._context is None:
            return
        hurried = isinstance(sys.exc_info()[1], SystemExit | KeyboardInterrupt)
        picture = self._context.run.picture if status == "finished" else None
        self._delivery.close(status, picture, HURRIED_SECONDS if hurried else DRAIN_SECONDS)
        self._report()

    def _report(self) -> None:
        for problem in self._delivery.problems():
            if self._context is not None:
                self._context.report_fault(Fault("sink_failed", problem.sink, problem.what))
