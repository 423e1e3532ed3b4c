"""Follower of a log that another process appends to, compacts and rewinds.

It gives states of compacted parts and records of lines, each event once and in order.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from esper_ray.karn.line_tail import Lines, LineTail
from esper_ray.leyline.process.garbage import paused_collection
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA, KINDS
from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.newest import record_at
from esper_ray.nissa.log.parquet import EventLogError, Part
from esper_ray.nissa.log.part_states import JOINED_PARTS, PartStates
from esper_ray.nissa.state.codec import StateError
from esper_ray.nissa.state.run_state import RunState

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
Parts = Mapping[Part, Mapping[int, int]]
"""Parts in their order, with the newest episode of each environment in each of them."""


@dataclass(frozen=True, slots=True)
class LogReceiver:
    """Receiver of what a log has gained. Each event comes once, in a state or as a record."""

    add_parts: Callable[[Parts, RunState], None]
    """Adds whole parts, which follow everything before, and the state of all their events."""
    add_records: Callable[[Sequence[dict[str, Any]]], None]
    """Adds events, which follow everything before."""
    restart: Callable[[int], None]
    """Drops this number of events: the log was cut, and is read anew."""
    problem: Callable[[str], None]
    """Notes that the log is not whole."""


class LogFollower:
    """Follower of one log."""

    def __init__(self, log: EventLog, receiver: LogReceiver, states: PartStates) -> None:
        self._log, self._receiver, self._states = log, receiver, states
        self._restart()

    def _restart(self) -> None:
        self._lines = LineTail(self._log.tail)
        self._sequence = -1
        """Number of the newest event that the receiver has."""
        self._newest: Mapping[str, Any] | tuple[str, str] | None = None
        """That event; name and digest of its part if it was received in a state."""

    @property
    def count(self) -> int:
        """Number of events up to the newest one that the receiver has."""
        return self._sequence + 1

    def poll(self) -> None:
        """Give the receiver what is new.

        Raises:
            EventLogError: if the log is of another version, or a file stands where its parts should be.
        """
        with paused_collection():
            self._poll()

    def _poll(self) -> None:
        first = self._sequence < 0
        while True:
            try:
                found = self._new_lines()
            except OSError as error:
                self._receiver.problem(f"{self._log.tail} cannot be read: {error.strerror or error}")
                return
            records = list(self._parsed(found.lines))
            if found.replaced and not self._continues(records):
                known = self.count
                self._restart()
                self._receiver.restart(known)
                continue
            first = first or found.replaced
            fresh = [record for record in records if record["seq"] > self._sequence]
            if fresh and fresh[0]["seq"] > self._sequence + 1:
                self._add_parts(fresh[0]["seq"])
            self._add_records([record for record in fresh if record["seq"] > self._sequence])
            if not found.more:
                if first:  # what was compacted since the last look was never read as lines
                    self._add_parts(None)
                return

    def _new_lines(self) -> Lines:
        """New lines. Of a replaced file all of them, since the newest known event may be its last one.

        Raises:
            OSError: if the file cannot be read.
        """
        found = self._lines.poll()
        if self._newest is None or not found.replaced:
            return found
        lines = found.lines
        while found.more:
            found = self._lines.poll()
            lines = found.lines if found.replaced else (*lines, *found.lines)
        return Lines(True, lines, more=False)

    def _parsed(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[dict[str, Any]]:
        for number, line in lines:
            try:
                record = json.loads(line)
                version = record.pop("schema")
                if record["kind"] not in KINDS or type(record["seq"]) is not int:
                    raise ValueError(f"kind {record['kind']!r}")
            except _MALFORMED as error:
                self._receiver.problem(f"line {number} of {self._log.tail} is not an event: {error!r:.100}")
                continue
            if version != EVENT_SCHEMA:
                raise EventLogError(
                    f"{self._log.folder} is an event log of version {version!r:.80}, this program reads {EVENT_SCHEMA}"
                )
            yield record

    def _continues(self, records: Sequence[dict[str, Any]]) -> bool:
        """Whether a replaced file continues what the receiver has, whose newest event is unchanged."""
        newest = self._newest
        if newest is None:
            return True
        holders = [part for part in self._log.parts() if part.first <= self._sequence <= part.last]
        try:
            if isinstance(newest, tuple):
                return any((part.path.name, part.digest()) == newest for part in holders)
            same = [record for record in records if record["seq"] == self._sequence]
            same += [record for part in holders if (record := record_at(part, self._sequence)) is not None]
        except EventLogError as error:
            self._receiver.problem(str(error))
            return False
        return bool(same) and _values(same[0]) == _values(newest)

    def _add_parts(self, end: int | None) -> None:
        """Add compacted events that the receiver lacks, those before ``end``."""
        due = [p for p in self._log.parts() if p.last > self._sequence and (end is None or p.first < end)]
        opens = self._sequence < 0 and bool(due) and due[0].first == 0
        whole_parts = [part for part in due if end is None or part.last < end] if opens else []
        parts, state = self._joined(whole_parts)
        first_parts: tuple[dict[Part, Mapping[int, int]], RunState] | None = None
        for part in due[len(parts) :]:
            whole = part.first > self._sequence and (end is None or part.last < end)
            try:
                content = self._content(part, whole)
            except EventLogError as error:
                self._receiver.problem(str(error))
                opens = False  # what follows is not the state of all first parts
                continue
            if isinstance(content, RunState):
                parts[part] = {env: episode.episode for env, episode in content.episodes.items()}
                state = state.merged(content)
                self._pass(part)
                if opens and len(parts) % JOINED_PARTS == 0:
                    first_parts = dict(parts), state
            else:
                self._flush(parts, state)
                parts, state, opens = {}, RunState(), False
                last = part.last if end is None else end - 1
                self._add_records([record for record in content if self._sequence < record["seq"] <= last])
        self._flush(parts, state)
        if first_parts is not None:
            self._states.keep_joined(*first_parts)

    def _joined(self, parts: Sequence[Part]) -> tuple[dict[Part, Mapping[int, int]], RunState]:
        """The first of these parts whose state is cached together, and that state."""
        try:
            joined = self._states.joined(parts)
        except EventLogError:
            return {}, RunState()  # the damage is reported when the part is read
        if joined is None:
            return {}, RunState()
        found = {part: joined.episodes.get(part.path.name, {}) for part in parts[: joined.count]}
        for part in found:
            self._check_files(part)
            self._pass(part)
        return found, joined.state

    def _pass(self, part: Part) -> None:
        """Note that the receiver has the events of a part, in a state."""
        self._check_gap(part.first)
        self._sequence, self._newest = part.last, (part.path.name, part.digest())

    def _check_files(self, part: Part) -> None:
        for file in part.missing_files():
            self._receiver.problem(f"{file} is missing")

    def _content(self, part: Part, whole: bool) -> RunState | list[dict[str, Any]]:
        """The state of a ``whole`` part, else its events.

        Raises:
            EventLogError: if it is damaged.
        """
        if whole:
            self._check_files(part)
            with suppress(StateError):  # events are added one by one, which finds the one that is not as declared
                return self._states.of(part)
        return part.records()

    def _flush(self, parts: Parts, state: RunState) -> None:
        if parts:
            self._receiver.add_parts(parts, state)

    def _add_records(self, records: Sequence[dict[str, Any]]) -> None:
        for record in records:
            self._check_gap(record["seq"])
            self._sequence, self._newest = record["seq"], record
        if records:
            self._receiver.add_records(records)

    def _check_gap(self, first: int) -> None:
        expected = self._sequence + 1
        if first != expected:
            self._receiver.problem(f"{self._log.folder}: events {expected} to {first - 1} are missing")


def _values(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without what a line may leave out and a Parquet file may not."""
    return {name: value for name, value in record.items() if name != "schema" and value not in (None, {}, [])}
