"""The reader of event logs and samples: everything that reads a log reads it through here.

A line that is not an event is left out, and so is one whose number does not fit between its neighbours; a folder that
is not a part is passed over. Each problem names file and line, and whether it is an error without ``--evidence`` too.
"""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from esper_ray.leyline.files.digests import FilePrefix, digest_of
from esper_ray.leyline.files.validation import described
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.log.lines import Line, check_file, json_lines, read_object
from esper_ray.nissa.log.numbering import LogNames
from esper_ray.nissa.log.parquet import EventLogError, Part, check_schema, parts_in
from esper_ray.nissa.log.validation import event_problem

logger = logging.getLogger(__name__)

WARNINGS = 20
"""Greatest number of problems that are logged one by one."""
INTEGRITY = "integrity.json"
"""File with the counts of a finished run."""


@dataclass(frozen=True, slots=True)
class LogProblem:
    """Something that is missing in a log, or damaged."""

    text: str
    fatal: bool = False
    """Whether it is an error without ``--evidence`` too. Parts are written as a whole: a damaged one was changed."""


class Integrity(BaseModel):
    """The keys of ``integrity.json`` that describe its text files; the others are counts."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    files: dict[str, FilePrefix]
    """Sizes and digests by name."""


@dataclass(frozen=True, slots=True)
class LogContent:
    """Content of a log at one moment."""

    parts: Sequence[Part]
    """Folders of Parquet files, in order."""
    lines: Sequence[Line]
    """Lines with an event that is in no part, in order."""
    problems: Sequence[LogProblem]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events that are still lines."""
        return [line.record for line in self.lines]

    def records(self, kinds: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Events, in order; those of some ``kinds``, in order within each part.

        Raises:
            EventLogError: if a file of a part cannot be read.
        """
        for part in self.parts:
            yield from part.records(kinds)
        yield from (event for event in self.events if kinds is None or event["kind"] in kinds)

    def settle(self, *, evidence: bool) -> None:
        """Log every problem as a warning.

        Raises:
            EventLogError: for the first fatal problem; for ``evidence`` for the first of all.
        """
        for problem in self.problems:
            if evidence or problem.fatal:
                raise EventLogError(problem.text)
        for problem in self.problems[:WARNINGS]:
            logger.warning("%s", problem.text)
        if len(self.problems) > WARNINGS:
            logger.warning("%d more problems are not listed", len(self.problems) - WARNINGS)


def read_log(tail: Path, folder: Path, names: LogNames, *, required: bool, numbered: bool, digests: bool) -> LogContent:
    """Content of a log. Lines are read first: those that are compacted meanwhile are in the parts.

    Args:
        tail: file of lines.
        folder: folder of parts.
        names: run and group of the events.
        required: whether ``tail`` must exist.
        numbered: whether a missing event is a problem, and a damaged line a fatal one.
        digests: whether the bytes of every Parquet file are compared with their digest.

    Raises:
        EventLogError: if the log is of another version, or ``folder`` is not a folder.
    """
    lines = event_lines(tail, names, required=required)
    parts = parts_in(folder)
    lines = without_compacted(lines, parts)
    problems = [LogProblem(text, fatal=True) for text in overlaps(parts)]
    problems += [LogProblem(text, fatal=True) for part in parts for text in part.damage(names, digests=digests)]
    damaged = [line for line in lines if line.problem is not None]
    problems += [
        LogProblem(f"line {line.number} of {tail} {line.problem}", fatal=numbered and not line.torn) for line in damaged
    ]
    lines = [line for line in lines if line.problem is None]
    if numbered:
        problems += map(LogProblem, _missing(tail.parent, parts, lines))
        if not problems:
            problems += map(LogProblem, _wrong_source_numbers(tail, parts, lines))
        if not problems:
            problems += [LogProblem(text, fatal=True) for text in changed_files(tail.parent, (tail.name,))]
        if digests:
            problems += map(LogProblem, changed_files(tail.parent))
    return LogContent(parts, lines, problems)


def event_lines(tail: Path, names: LogNames, *, required: bool) -> list[Line]:
    """Every line of ``tail``; a line without an event that fits has a problem.

    Raises:
        EventLogError: if the file cannot be read, or its events are of another version.
    """
    try:
        if not tail.exists() and not required:
            return []
        check_file(tail)
        lines = [_event_line(line, names) for line in json_lines(tail)]
    except ValueError as error:
        raise EventLogError(f"{tail} {error}") from error
    except OSError as error:
        raise EventLogError(f"{tail} cannot be read: {error.strerror or error}") from error
    versions = {version for line in lines if type(version := line.record.get("schema")) is int}
    if versions and EVENT_SCHEMA not in versions:
        check_schema(min(versions), tail)
    return _placed([replace(line, record=_unversioned(line)) for line in lines])


def _event_line(line: Line, names: LogNames) -> Line:
    """The line with its problem, if it holds no event of this version."""
    if line.problem is not None:
        return line
    version = line.record.get("schema")
    if type(version) is not int:
        problem = f"is not an event: schema: {EVENT_SCHEMA} is expected, got {version!r:.80}"
    elif version != EVENT_SCHEMA:
        problem = f"is an event of version {version}, this program reads {EVENT_SCHEMA}"
    else:
        record = line.record
        difference = event_problem(_unversioned(line)) or names.problem(record["seq"], record["run"], record["group"])
        if difference is None:
            return line
        problem = f"is not an event: {difference}"
    return replace(line, problem=problem)


def _unversioned(line: Line) -> dict[str, Any]:
    return {name: value for name, value in line.record.items() if name != "schema"}


def _placed(lines: Sequence[Line]) -> list[Line]:
    """The lines, with a problem in each whose number breaks the order. The numbers of the others increase."""
    numbers = [(index, line.record["seq"]) for index, line in enumerate(lines) if line.problem is None]
    if all(one < other for (_, one), (_, other) in pairwise(numbers)):
        return list(lines)
    fitting = _longest_increasing(numbers)
    holder = {lines[index].record["seq"]: lines[index].number for index in fitting}
    placed = list(lines)
    for index, number in numbers:
        if index in fitting:
            continue
        if number in holder:
            problem = f"is doubled: event {number} stands in line {holder[number]}"
        else:
            problem = f"is out of order: event {number} does not fit between its neighbours"
        placed[index] = replace(lines[index], problem=problem)
    return placed


def _longest_increasing(numbers: Sequence[tuple[int, int]]) -> set[int]:
    """Indices of a longest increasing subsequence of (index, number) pairs. Of equal numbers it has only the first."""
    ends: list[int] = []  # smallest last number of a subsequence, by its length
    holders: list[int] = []  # index of that number
    previous: dict[int, int] = {}
    for index, number in numbers:
        place = bisect_left(ends, number)
        if place < len(ends) and ends[place] == number:
            continue
        if place:
            previous[index] = holders[place - 1]
        ends[place : place + 1], holders[place : place + 1] = [number], [index]
    chosen = set()
    last: int | None = holders[-1] if holders else None
    while last is not None:
        chosen.add(last)
        last = previous.get(last)
    return chosen


def without_compacted(lines: Sequence[Line], parts: Sequence[Part]) -> list[Line]:
    """The lines whose event is in no part.

    A crash between compacting and cutting leaves the lines of whole parts, which are passed over; others are doubled.
    """
    compacted = parts[-1].last if parts else -1
    inside = [line.record["seq"] for line in lines if line.problem is None and line.record["seq"] <= compacted]
    if not inside:
        return list(lines)
    whole = inside == list(range(inside[0], inside[-1] + 1)) and inside[0] in {part.first for part in parts}
    left_over = whole and inside[-1] in {part.last for part in parts}
    kept = []
    for line in lines:
        if line.problem is not None or line.record["seq"] > compacted:
            kept.append(line)
        elif not left_over:
            kept.append(replace(line, problem=f"is doubled: event {line.record['seq']} is compacted already"))
    return kept


def overlaps(parts: Sequence[Part]) -> Iterator[str]:
    """A problem for each part that begins before the one before it ends."""
    for part, following in pairwise(parts):
        if following.first <= part.last:
            yield f"{following.path} overlaps {part.path.name}: both hold event {following.first}"


def _missing(folder: Path, parts: Sequence[Part], lines: Sequence[Line]) -> Iterator[str]:
    expected = 0
    spans = [*((part.first, part.last) for part in parts), *((line.record["seq"],) * 2 for line in lines)]
    for first, last in spans:
        if first > expected:
            yield f"{folder}: events {expected} to {first - 1} are missing"
        expected = max(expected, last + 1)
    file = folder / INTEGRITY
    if not file.exists():
        return  # the run is not finished
    try:
        counted = read_object(file).get("events")
    except ValueError as error:
        yield f"{file} {error}"
        return
    if type(counted) is not int or counted < 0:
        yield f"{file} cannot be read: events: a number of events is expected, got {counted!r:.80}"
    elif expected < counted:
        yield f"{folder}: events {expected} to {counted - 1} are missing: {INTEGRITY} counts {counted}"
    elif expected > counted:
        yield f"{folder}: the log ends with event {expected - 1}, {INTEGRITY} counts {counted}"


def changed_files(folder: Path, names: Collection[str] | None = None) -> Iterator[str]:
    """A problem for each text file of a finished run that has changed since.

    Args:
        names: only these files; ``None``: all.
    """
    if not (folder / INTEGRITY).exists():
        return  # the run is not finished
    try:
        files = Integrity.model_validate(read_object(folder / INTEGRITY)).files
    except ValidationError as error:
        yield f"{folder / INTEGRITY} is damaged: {described(error)}"
        return
    except ValueError as error:
        yield f"{folder / INTEGRITY} {error}"
        return
    if absent := [name for name in names or () if name not in files]:
        yield f"{folder / INTEGRITY} is damaged: files: {absent[0]} is missing"
    for name, prefix in files.items():
        if names is None or name in names:
            yield from _change(folder / name, prefix)


def _change(file: Path, prefix: FilePrefix) -> Iterator[str]:
    """The difference of a file from its content at the end of the run."""
    try:
        check_file(file)
        size = file.stat().st_size
        if size != prefix.size:
            yield f"{file} has {size} bytes, {INTEGRITY} counts {prefix.size}"
        elif digest_of(file) != prefix.sha256:
            yield f"{file} has changed since it was written: {INTEGRITY} has another digest"
    except ValueError as error:
        yield f"{file} {error}"
    except OSError as error:
        yield f"{file} cannot be read: {error.strerror or error}"


def _wrong_source_numbers(tail: Path, parts: Sequence[Part], lines: Sequence[Line]) -> Iterator[str]:
    """The first line whose number within its source does not follow those before it."""
    counts = Counter[str]()
    for part in parts:
        counts.update(part.index().sources)
    for line in lines:
        source, number = line.record["source"], line.record["source_seq"]
        if number != counts[source]:
            yield (
                f"line {line.number} of {tail} is not an event: source_seq: {counts[source]} is expected as the next "
                f"number of {source}, got {number}"
            )
            return
        counts[source] += 1
