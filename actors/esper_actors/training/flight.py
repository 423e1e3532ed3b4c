"""The flight recorder as an observer: what it keeps, and when it writes a recording."""

import logging
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import Any

from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files.durable import WriteError
from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.alerts import ROLLBACK_SHARE
from esper_ray.nissa.runs.flight_recorder import FlightRecorder, RecordingHandler, RequestWatch
from esper_ray.nissa.runs.observer import RunContext, RunObserver

LOGGERS = ("esper_ray", "esper_actors", "esper_policies", "ray")
"""Loggers whose messages are kept."""
FEWEST_EPISODES = 8
"""Newest episodes of which the share of rollbacks is formed, at least."""
QUARANTINED = "environment_quarantined"
"""Kind of the fault, and type of the anomaly at the end of its round."""


class FlightObserver(RunObserver):
    """Observer that keeps the newest items, and writes them when something goes wrong.

    A recording is written when an anomaly begins, an environment is quarantined, rollbacks pile up, the run fails, the
    process receives SIGUSR1, or a viewer asks. One that cannot be written is a fault, once until one is written.
    """

    def __init__(self) -> None:
        self._recorder: FlightRecorder | None = None
        self._watch: RequestWatch | None = None
        self._handler: RecordingHandler | None = None
        self._has_signal = self._has_reported = self._has_piled_up = False
        self._has_steps = False
        """Whether steps arrive while their episode is in play; those of its log are then known."""
        self._problem: str | None = None
        self._rollbacks = deque[bool](maxlen=FEWEST_EPISODES)

    def run_opened(self, context: RunContext) -> None:
        self._context = context
        self._rollbacks = deque(maxlen=max(FEWEST_EPISODES, context.config.system.envs))
        self._recorder = FlightRecorder(context.run.path)
        self._recorder.add("starting")
        self._handler = RecordingHandler(self._recorder)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._handler)
        self._watch = RequestWatch(context.run.path, self._write)
        self._watch.start()
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:  # a handler of the user stays
            signal.signal(signal.SIGUSR1, self._signalled)
            self._has_signal = True

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        if self._watch is not None:
            self._watch.ask("the process received SIGUSR1")

    def run_started(self, context: RunContext) -> None:
        self._keep("playing")

    def samples_received(self, records: Sequence[Record]) -> None:
        if self._recorder is not None:
            self._has_steps = self._has_steps or any(record["kind"] == "env_epoch" for record in records)
            self._recorder.extend(records)
        self._report()

    def episode_finished(self, episode: Episode) -> None:
        if self._recorder is not None:
            known = "env_epoch" if self._has_steps else None
            self._recorder.extend(record for record in episode.log if record["kind"] != known)
        self._rollbacks.append(episode.rollback)
        count, episodes = sum(self._rollbacks), len(self._rollbacks)
        piled_up = episodes == self._rollbacks.maxlen and count / episodes > ROLLBACK_SHARE
        if piled_up and not self._has_piled_up:
            self._write("rollbacks", f"{count} of the {episodes} newest episodes were rolled back")
        self._has_piled_up = piled_up
        self._report()

    def update_started(self) -> None:
        self._keep("learning")

    def update_finished(self) -> None:
        self._keep("saving")

    def round_logged(self, records: Sequence[Record]) -> None:
        if self._recorder is not None:
            self._recorder.extend(records)
        begun = [r for r in records if r["kind"] == "anomaly" and r["open"] and r["type"] != QUARANTINED]
        if begun:
            self._write("anomaly", "; ".join(map(_anomaly, begun)))
        self._report()

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        self._keep("playing")

    def fault_occurred(self, fault: Fault) -> None:
        self._keep(fault)
        if fault.kind == QUARANTINED:
            self._write("quarantine", fault.describe())

    def run_ended(self, status: str) -> None:
        if self._handler is not None:
            for name in LOGGERS:
                logging.getLogger(name).removeHandler(self._handler)
        if self._watch is not None:
            self._watch.stop()
        if self._has_signal:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        error = sys.exception()
        if status == "failed" and self._recorder is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
            reason = "the run failed"
            if error is not None:
                self._recorder.add(error)
                reason += f": {type(error).__name__}: {error}"
            self._write("failed", reason)
        self._report()

    def _keep(self, item: Fault | str) -> None:
        if self._recorder is not None:
            self._recorder.add(item)
        self._report()

    def _write(self, what: str, reason: str) -> None:
        """Write a recording. Called from two threads: a fault is reported later, by the main thread."""
        if self._recorder is None:
            return
        try:
            self._recorder.write(what, reason)
            self._problem, self._has_reported = None, False
        except WriteError as error:
            self._problem = str(error)

    def _report(self) -> None:
        if self._problem is not None and not self._has_reported:
            self._has_reported = True
            self._context.report_fault(Fault("viewer_file_failed", "flight recorder", self._problem))


def _anomaly(record: Record) -> str:
    subject = "" if record["subject"] is None else f" ({record['subject']})"
    numbers = ""
    if record["value"] is not None and record["threshold"] is not None:
        numbers = f": {record['value']:.3g}, threshold {record['threshold']:.3g}"
    return f"{record['type'].replace('_', ' ')}{subject}{numbers}"
