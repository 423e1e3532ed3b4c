"""A run directory as a state that advances while the run writes.

Dataflow of one call of :meth:`RunFollower.poll`::

    events/ (parts) --summaries--> state          on opening, and where the log was compacted ahead of the reader
    events.jsonl --new lines--> state             a replaced file: what is known already is passed over
    samples/, samples.jsonl --> state             in the same way
    faults.jsonl, timings.csv --> state
    live.jsonl --> previews of the state          dropped when the events of their episode arrive
    pulse.json, manifest.json --> what a viewer sees of the driver

The run is never written to. A resumed run drops events: its state is then made anew, and ``notes`` says so.
"""

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from esper_ray.karn.line_tail import LineTail
from esper_ray.karn.log_follower import LogFollower, LogReceiver, Parts
from esper_ray.karn.recent import KEPT
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files.regular import read_regular
from esper_ray.leyline.records import Record
from esper_ray.nissa.log.newest import newest_records
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.log.part_states import PartStates
from esper_ray.nissa.runs.live_steps import LIVE, LIVE_FULL
from esper_ray.nissa.runs.pulse import PULSE
from esper_ray.nissa.runs.run_directory import FAULTS, RunDirectory
from esper_ray.nissa.state.answers import Sight
from esper_ray.nissa.state.run_state import RunState

PROBLEMS = 20
"""Most problems that are kept."""
NEWEST_FILES = 8
"""Files of each kind in which its newest records are searched: a long run has more rounds than are read."""
SAMPLE_PARTS = 2
"""Newest compacted parts of which decisions are read."""
ENDED = ("finished", "interrupted", "failed")
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)


class EventCollector(Protocol):
    """Receiver of the records that a follower reads."""

    def event(self, record: Record) -> None:
        """Add an event of the log. Events come in their order."""

    def live_step(self, record: Record) -> None:
        """Add a step of an episode in play."""

    def sample(self, record: Record) -> None:
        """Add a sample, such as a decision. Samples of an environment come in their order."""

    def clear(self) -> None:
        """Drop everything: the log is read anew."""


class RunFollower:
    """Follower of one run."""

    def __init__(
        self,
        run: RunDirectory,
        clock: Callable[[], float] = time.monotonic,
        collector: EventCollector | None = None,
        states: PartStates | None = None,
    ) -> None:
        """
        Args:
            clock: seconds of the viewer; ages are measured with it.
            collector: receives records; the state holds none of them. Of compacted parts only the newest ``KEPT``
                records of each kind, in up to ``NEWEST_FILES`` files, and the newest episode of each environment are
                read, later ones all.
            states: of compacted parts.
        """
        self.run, self._clock, self._collector = run, clock, collector
        self._states = states or PartStates()
        self.state = RunState()
        self.problems: list[str] = []
        """Damaged lines and files, oldest first: the evidence is not whole."""
        self.notes: list[str] = []
        """What happened to the log while it was followed, such as a resumption."""
        self.live_is_full = False
        """Whether the steps in play are no longer recorded in this round."""
        self.manifest: Mapping[str, Any] = {}
        self.sight = Sight(None)
        self._beat: tuple[Any, float] = (None, clock())
        self._moved: tuple[Any, float] = (None, clock())
        events = LogReceiver(self._add_event_parts, self._add_events, self._restart, self._problem)
        self._events = LogFollower(run.event_log, events, self._states)
        self._known: int | None = None
        """Number of events that were known when the log was cut."""
        self._reset()

    def _reset(self) -> None:
        self.state = RunState()
        if self._collector is not None:
            self._collector.clear()
        self._tails = {name: LineTail(self.run.path / name) for name in (LIVE, FAULTS, "timings.csv")}
        samples = LogReceiver(self._add_sample_parts, self._add_samples, lambda _: None, self._problem)
        self._samples = LogFollower(self.run.samples, samples, self._states)
        self._columns: list[str] = []

    def look(self) -> None:
        """Read manifest and pulse alone: what can be known before the log is read."""
        self._read_manifest()
        self._read_pulse()

    def poll(self) -> bool:
        """Read what is new; whether anything changed.

        Raises:
            EventLogError: if the log is of another version.
        """
        before = (self.state.count, self.sight, len(self.notes), len(self.problems))
        self.look()
        self._events.poll()
        self._note_resumption()
        self._samples.poll()
        self._read_lines(FAULTS, self._fault)
        self._read_lines(LIVE, self._live_step)
        self._read_timings()
        status = self.manifest.get("status")
        if status in ENDED and self.state.status != status:
            self.state = self.state.with_status(status)
        return before != (self.state.count, self.sight, len(self.notes), len(self.problems))

    # What the driver is doing

    def _read_manifest(self) -> None:
        try:
            self.manifest = json.loads(read_regular(self.run.path / "manifest.json"))
        except (OSError, ValueError) as error:
            self._problem(f"{self.run.path / 'manifest.json'} cannot be read: {error}")

    def _read_pulse(self) -> None:
        now = self._clock()
        try:
            pulse = json.loads(read_regular(self.run.path / PULSE))
        except FileNotFoundError:
            self.sight = Sight(None)
            return
        except (OSError, ValueError) as error:
            self._problem(f"{self.run.path / PULSE} cannot be read: {error}")
            return
        if pulse.get("beat") != self._beat[0]:
            self._beat = (pulse.get("beat"), now)
        if pulse.get("moved") != self._moved[0]:
            self._moved = (pulse.get("moved"), now)
        self.sight = Sight(pulse, now - self._beat[1], now - self._moved[1])

    # Events and samples

    def _restart(self, known: int) -> None:
        self._known = known
        self._reset()

    def _note_resumption(self) -> None:
        """Say how many events the log has lost, if it was read anew."""
        if self._known is None:
            return
        dropped, self._known = self._known - self._events.count, None
        if dropped > 0:
            events = "1 event was" if dropped == 1 else f"{dropped:,} events were"
            self.notes.append(f"resumed at round {len(self.state.rounds) + 1}: {events} dropped")
        else:  # so many have come since that the number is not known
            self.notes.append("resumed: events were dropped, and the log is read anew")

    def _add_event_parts(self, parts: Parts, state: RunState) -> None:
        self._add_parts(parts, state, _newest_events, None if self._collector is None else self._collector.event)

    def _add_sample_parts(self, parts: Parts, state: RunState) -> None:
        self._add_parts(parts, state, _newest_decisions, None if self._collector is None else self._collector.sample)

    def _add_parts(
        self,
        parts: Parts,
        state: RunState,
        newest: Callable[[Parts], list[dict[str, Any]]],
        collect: Callable[[Record], None] | None,
    ) -> None:
        self.state = self.state.merged(state)
        if collect is None:
            return
        try:
            records = newest(parts)
        except EventLogError as error:
            self._problem(str(error))
            return
        for record in records:
            collect(record)

    def _add_events(self, records: Sequence[Record]) -> None:
        self._add_records(records, "event", None if self._collector is None else self._collector.event)

    def _add_samples(self, records: Sequence[Record]) -> None:
        self._add_records(records, "sample", None if self._collector is None else self._collector.sample)

    def _add_records(self, records: Sequence[Record], name: str, collect: Callable[[Record], None] | None) -> None:
        try:
            self.state = self.state.advance(records)
        except _MALFORMED:
            records = self._applied(records, name)
        if collect is not None:
            for record in records:
                collect(record)

    def _applied(self, records: Sequence[Record], name: str) -> list[Record]:
        """Add records one by one; those that are as declared."""
        applied = []
        for record in records:
            try:
                self.state = self.state.apply(record)
                applied.append(record)
            except _MALFORMED as error:
                self._problem(f"{name} {record['seq']} of {self.run.path} is not as declared: {error!r:.100}")
        return applied

    # Other files

    def _read_lines(self, name: str, read: Callable[[dict[str, Any]], None]) -> None:
        tail = self._tails[name]
        more = True
        while more:
            try:
                found = tail.poll()
            except OSError as error:
                self._problem(f"{tail.path} cannot be read: {error.strerror or error}")
                return
            more = found.more
            if found.replaced and name == LIVE:  # what is still in play is in the new file from its beginning
                self.live_is_full, self.state = False, self.state.without_previews()
            for number, line in found.lines:
                try:
                    read(json.loads(line))
                except _MALFORMED as error:
                    self._problem(f"line {number} of {tail.path} cannot be used: {error!r:.100}")

    def _fault(self, record: dict[str, Any]) -> None:
        fault = Fault(record["kind"], record["who"], record["detail"], record.get("seconds"))
        self.state = self.state.with_fault(fault)

    def _live_step(self, record: dict[str, Any]) -> None:
        if record["kind"] == LIVE_FULL:
            self.live_is_full = True
        else:
            self.state = self.state.preview(record)
            if self._collector is not None:
                self._collector.live_step(record)

    def _read_timings(self) -> None:
        try:
            found = self._tails["timings.csv"].poll()
        except OSError as error:
            self._problem(f"{self._tails['timings.csv'].path} cannot be read: {error.strerror or error}")
            return
        if found.replaced:
            self._columns = []
        for number, line in found.lines:
            cells = next(csv.reader([line.decode(errors="replace")]), [])
            if not self._columns:
                self._columns = cells
                continue
            try:
                row = {name: float(cell) for name, cell in zip(self._columns, cells, strict=True)}
            except ValueError as error:
                self._problem(f"line {number} of {self._tails['timings.csv'].path} cannot be used: {error}")
                continue
            self.state = self.state.with_timing(row)

    def _problem(self, text: str) -> None:
        if text not in self.problems and len(self.problems) < PROBLEMS:
            self.problems.append(text)


def _newest_events(parts: Parts) -> list[dict[str, Any]]:
    """The newest events of each kind, and those of each newest episode."""
    newest = {env: episode for episodes in parts.values() for env, episode in episodes.items()}
    shared = {part: dict(episodes.items() & newest.items()) for part, episodes in parts.items()}
    return newest_records(list(parts), KEPT, shared, NEWEST_FILES)


def _newest_decisions(parts: Parts) -> list[dict[str, Any]]:
    """Samples of decisions in the newest parts."""
    return [record for part in list(parts)[-SAMPLE_PARTS:] for record in part.records(("decision",))]
