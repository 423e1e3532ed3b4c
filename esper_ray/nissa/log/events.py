"""Event log of a run: lossless, numbered without gaps, the same for equal runs.

The newest events of a running run are lines of JSON in ``events.jsonl``. After a round, if they are many, they are
compacted to Parquet: one file for each kind, in a folder of ``events/`` that is named by its first and last number
and appears as a whole. ``integrity.json`` holds the counts of a finished run.

Two numbers show gaps: ``seq`` over the whole log, ``source_seq`` over the events of one source (an environment, the
learner, the driver).
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from esper_ray.leyline.files.digests import FilePrefix
from esper_ray.leyline.files.durable import GrowingFile, remove
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.log.finite import finite_record
from esper_ray.nissa.log.lines import Line
from esper_ray.nissa.log.numbering import Counts, InheritedNames, LogNames, LogPosition
from esper_ray.nissa.log.parquet import EventLogError, Part, all_parts_in, parts_in, write_part
from esper_ray.nissa.log.reader import (
    INTEGRITY,
    LogContent,
    LogProblem,
    event_lines,
    overlaps,
    read_log,
    without_compacted,
)
from esper_ray.nissa.log.validation import record_problem, source_of

logger = logging.getLogger(__name__)

COMPACT_BYTES = 4 * 2**20
"""Size of the lines of JSON from which a finished round is compacted."""
STRICT = "ESPER_STRICT_TELEMETRY"
"""Environment variable that makes invalid records errors. Set in tests; training continues without it."""


class RecordError(ValueError):
    """A record that does not match the declaration of its kind."""


class EventLog:
    """Event log in the folder of one run."""

    exists_always = True
    """Whether the file of lines is made with the run."""
    is_complete = True
    """Whether a missing event is a problem."""

    def __init__(
        self, folder: Path, run: str, group: str = "", inherited: Sequence[InheritedNames] = (), name: str = "events"
    ) -> None:
        """
        Args:
            run: name of the run, in every record.
            group: group of the run within that name, such as a side of an A/B comparison.
            inherited: names in the first events, if they were copied from other runs.
            name: of the file of lines and of the folder of compacted events.
        """
        self.folder, self.names = folder, LogNames(run, group, inherited)
        self.tail, self._parts = folder / f"{name}.jsonl", folder / name
        self._file = GrowingFile(self.tail)
        self.counts = Counts()
        self._lines_from = 0
        """Number of the first event that is a line."""
        self._written = sha256()
        """Digest of the lines that this process wrote or checked. A file of lines with another one was changed."""
        self._written_bytes = 0
        """Their size."""
        self._is_blocked = False
        self.change: str | None = None
        """Change of the lines by another process that their form does not show, noticed when they were compacted."""

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records with their numbers. Numbers that are not finite become null and are listed in ``nonfinite``.

        Raises:
            RecordError: if a record does not match its declaration and ``ESPER_STRICT_TELEMETRY`` is set. Otherwise
                a record of kind ``malformed`` holds it.
            WriteError: if the file cannot be written, or is not what was last written.
        """
        lines = [
            json.dumps(self._numbered(finite_record(self._checked(record))), allow_nan=False) for record in records
        ]
        content = "".join(f"{line}\n" for line in lines)
        self._file.append(content)
        self._written.update(content.encode())
        self._written_bytes += len(content)  # JSON is ASCII

    def position(self) -> LogPosition:
        """Numbers of the written or kept events, and the digest of their lines."""
        sources, digest = dict(self.counts.sources), self._written.hexdigest()
        sequence = self.counts.sequence
        return LogPosition(sequence=sequence, sources=sources, lines_from=self._lines_from, lines_sha256=digest)

    def flush(self) -> None:
        """Wait until the written records are on the disk.

        Raises:
            WriteError: if the disk refuses them.
        """
        self._file.flush()

    def _checked(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        problem = record_problem(record)
        if problem is None:
            return record
        if os.environ.get(STRICT):
            raise RecordError(problem)
        logger.error("a record of the event log does not match its declaration: %s", problem)
        self.counts.malformed += 1
        return {"kind": "malformed", "problem": problem, "record": json.dumps(record, default=repr)}

    def _numbered(self, record: Mapping[str, Any]) -> dict[str, Any]:
        source = source_of(record)
        provenance = {"run": self.names.run, "group": self.names.group, "source": source}
        numbers = {"source_seq": self.counts.sources[source], "seq": self.counts.sequence}
        self.counts.sources[source] += 1
        self.counts.sequence += 1
        return {"schema": EVENT_SCHEMA, **provenance, **numbers, **record}

    def compact(self, *, always: bool = False) -> None:
        """Compact the lines to Parquet if they are many, or ``always``.

        Lines that something else has changed stay as they are, and a warning says so: compacted, a changed value
        could not be told from a written one.

        Raises:
            EventLogError: if a part is damaged.
            WriteError: if the lines are not what was last written, or the Parquet files cannot be written.
        """
        if self._file.size() < (1 if always else COMPACT_BYTES) or (self._is_blocked and not always):
            return
        records = self._checked_lines()
        if records is None:
            self._is_blocked = True
            return
        compacted = self._compacted()
        records = [record for record in records if record["seq"] > compacted]
        if records:
            write_part(self._parts, records)
        self._replace_tail(b"", self.counts.sequence)

    def _checked_lines(self) -> list[dict[str, Any]] | None:
        """Events in the file of lines; ``None`` if one is damaged or changed."""
        content = self.tail.read_bytes()
        if sha256(content).digest() == self._written.digest():
            records = [json.loads(line) for line in content.splitlines()]
            for record in records:
                del record["schema"]
            return records
        checked = self.content(digests=False)
        checked.settle(evidence=False)
        if len(content) == self._written_bytes and not checked.problems:
            self.change = f"{self.tail} was changed by another process: its SHA-256 is not that of the written lines"
            logger.warning("%s; the lines are not compacted", self.change)
            return None
        return None if checked.problems else checked.events

    def parts(self) -> list[Part]:
        """Folders of Parquet files, in order.

        Raises:
            EventLogError: if a file stands where their folder should be.
        """
        return parts_in(self._parts)

    def _compacted(self) -> int:
        """Number of the last compacted event; -1 if there is none."""
        parts = self.parts()
        return parts[-1].last if parts else -1

    def content(self, *, digests: bool) -> LogContent:
        """Events of the log and its problems.

        Args:
            digests: whether the bytes of every Parquet file are compared with their digest.

        Raises:
            EventLogError: if the log is of another version or cannot be read at all.
        """
        required, numbered = self.exists_always, self.is_complete
        return read_log(self.tail, self._parts, self.names, required=required, numbered=numbered, digests=digests)

    def unchecked(self) -> LogContent:
        """Parts and sound lines. What is damaged or missing is not looked for: a viewer that follows the log has it.

        Raises:
            EventLogError: if the log is of another version, or the file of lines cannot be read.
        """
        lines, parts = event_lines(self.tail, self.names, required=self.exists_always), self.parts()
        sound = [line for line in without_compacted(lines, parts) if line.problem is None]
        return LogContent(parts, sound, ())

    def read(self, *, evidence: bool) -> LogContent:
        """Events of the log.

        Args:
            evidence: whether the log must be complete and undamaged, to the last byte.

        Raises:
            EventLogError: if the log is of another version or a part is damaged; for ``evidence`` also if a line is
                damaged or an event is missing, at the end too if the run is finished. Otherwise such lines are left
                out, with a warning that names them.
        """
        content = self.content(digests=evidence)
        content.settle(evidence=evidence)
        return content

    def records(self, *, evidence: bool = False) -> Iterator[dict[str, Any]]:
        """All events, in order.

        Raises:
            EventLogError: see :meth:`read`.
        """
        yield from self.read(evidence=evidence).records()

    def of_kinds(self, kinds: Collection[str]) -> Iterator[dict[str, Any]]:
        """Events of some kinds, in order within each part. Files of other kinds are not read.

        Raises:
            EventLogError: see :meth:`read`.
        """
        yield from self.read(evidence=False).records(kinds)

    def lines_from(self, sequence: int) -> bytes:
        """Lines of JSON that are not compacted, from event ``sequence`` on."""
        content = self.tail.read_bytes()
        if sha256(content).digest() == self._written.digest():
            lines = content.splitlines(keepends=True)
            return b"".join(lines[max(0, sequence - json.loads(lines[0])["seq"]) :] if lines else [])
        events = self.content(digests=False).lines
        return b"".join(line.content for line in events if line.record["seq"] >= sequence)

    def check(self, position: LogPosition) -> None:
        """Check that the log is undamaged up to ``position``.

        Raises:
            EventLogError: if an event before it is missing, a line was changed, a line or a part is damaged, or the log
                is of another version.
        """
        self._before(position)

    def rewind(self, position: LogPosition) -> None:
        """Remove the events after ``position``.

        Raises:
            EventLogError: see :meth:`check`. Then nothing is removed.
        """
        sequence = position.sequence
        parts, lines = self._before(position)
        kept = set()
        for part in parts:
            if part.last >= sequence:
                kept.add(write_part(self._parts, [r for r in part.records() if r["seq"] < sequence]))
            else:
                kept.add(part.path)
        for part in all_parts_in(self._parts):
            if part.path not in kept:
                remove(part.path)
        remove(self.folder / INTEGRITY)
        first = lines[0].record["seq"] if lines else sequence
        self._replace_tail(b"".join(line.content for line in lines), first)
        self._is_blocked = False
        self.counts = Counts(sequence, Counter(position.sources))

    def _before(self, position: LogPosition) -> tuple[list[Part], list[Line]]:
        """Parts and lines with the events before ``position``. The last part may have later ones, too."""
        sequence = position.sequence
        lines = without_compacted(event_lines(self.tail, self.names, required=False), self.parts())
        parts = [part for part in self.parts() if part.first < sequence]
        for problem in (*overlaps(parts), *(text for part in parts for text in part.damage(self.names, digests=True))):
            raise EventLogError(problem)
        spans = [(part.first, part.last) for part in parts]
        compacted = spans[-1][1] if spans else -1
        needed = [line for line in lines if line.problem is None and compacted < line.record["seq"] < sequence]
        spans = [(-1, -1), *spans, *((line.record["seq"],) * 2 for line in needed)]
        end = min(spans[-1][1], sequence - 1)
        last_line = needed[-1].number if needed else 0
        for line in lines:
            if line.problem is not None and (line.number < last_line or end < sequence - 1):
                place = f"line {line.number} of {self.tail} {line.problem}"
                raise EventLogError(f"{place}; the checkpoint needs the events up to {sequence - 1}")
        for (_, last), (first, _) in pairwise(spans):
            if first != last + 1:
                raise EventLogError(f"{self.folder}: events {last + 1} to {first - 1} are missing")
        if end < sequence - 1:
            raise EventLogError(f"{self.folder}: the log ends with event {end}, the checkpoint with {sequence - 1}")
        if needed and (change := self._change(position, needed)):
            raise EventLogError(change)
        return parts, needed

    def _change(self, position: LogPosition, lines: Sequence[Line]) -> str | None:
        """Difference of ``lines``, which are not compacted, from those before ``position``."""
        first, last = position.lines_from, position.sequence - 1
        if lines[0].record["seq"] != first:
            found = lines[0].record["seq"]
            return f"{self.tail} begins with event {found}, when the checkpoint was made it began with event {first}"
        if sha256(b"".join(line.content for line in lines)).hexdigest() == position.lines_sha256:
            return None
        place = f"lines {lines[0].number} to {lines[-1].number}"
        return (
            f"{self.tail} has changed since it was written: the SHA-256 of {place} (events {first} to {last}) is not "
            "that in the checkpoint"
        )

    def cut_torn_line(self, lines: Iterable[Line]) -> None:
        """Remove the last of ``lines`` from the file if it is torn."""
        for line in lines:
            if line.torn:
                self._file.truncate(line.begin)

    def line_count(self) -> int:
        """Number of lines that are not compacted, damaged ones included."""
        if not self.tail.exists():
            return 0
        with self.tail.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))

    def _replace_tail(self, content: bytes, first: int) -> None:
        self._file.replace(content)
        self._written, self._written_bytes = sha256(content), len(content)
        self._lines_from, self.change = first, None


def integrity(log: EventLog) -> dict[str, Any]:
    """Counts of the log, its gaps and damage. Reads every line and every index."""
    sources, kinds = Counter[str](), Counter[str]()
    gaps = expected = 0
    try:
        content = log.content(digests=True)
    except EventLogError as error:
        content = LogContent((), (), (LogProblem(str(error), fatal=True),))
    problems = [problem.text for problem in content.problems] + ([log.change] if log.change else [])
    for record in _readable(content, problems):
        gaps += record["seq"] != expected
        expected = record["seq"] + 1
        gaps += record["source_seq"] != sources[record["source"]]
        sources[record["source"]] = record["source_seq"] + 1
        kinds[record["kind"]] += 1
    return {
        "schema": EVENT_SCHEMA,
        "complete": gaps == 0 and not problems and kinds["malformed"] == 0,
        "events": sum(kinds.values()),
        "gaps": gaps,
        "malformed": kinds["malformed"],
        "problems": problems,
        "kinds": dict(sorted(kinds.items())),
        "sources": dict(sorted(sources.items())),
        "parts": [part.path.name for part in content.parts],
        "files": {log.tail.name: FilePrefix.of(log.tail.read_bytes()).model_dump()},
    }


def _readable(content: LogContent, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Events of the readable parts, and of the lines. The problems of the other parts are added to ``problems``."""
    for part in content.parts:
        try:
            yield from part.records()
        except EventLogError as error:
            if str(error) not in problems:
                problems.append(str(error))
    yield from content.events
