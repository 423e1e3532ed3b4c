"""Event log of a run: lossless, numbered without gaps, the same for equal runs.

The newest events of a running run are lines of JSON in ``events.jsonl``. After a round, if they are many, they are
compacted to Parquet: one file for each kind, in a folder of ``events/`` that is named by its first and last number
and appears as a whole. ``integrity.json`` holds the counts of a finished run.

Two numbers show gaps: ``seq`` over the whole log, ``source_seq`` over the events of one source (an environment, the
learner, the driver).
"""

import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.log.parquet import EventLogError, Part, check_schema, parts_in, write_part
from esper_ray.nissa.log.validation import record_problem

logger = logging.getLogger(__name__)

COMPACT_BYTES = 4 * 2**20
"""Size of the lines of JSON from which a finished round is compacted."""
INTEGRITY = "integrity.json"
"""File with the counts of a finished run."""
STRICT = "ESPER_STRICT_TELEMETRY"
"""Environment variable that makes invalid records errors. Set in tests; training continues without it."""


class RecordError(ValueError):
    """A record that does not match the declaration of its kind."""


@dataclass(slots=True)
class Counts:
    """Numbers of written events."""

    sequence: int = 0
    """Number of the next event."""
    sources: Counter[str] = field(default_factory=Counter)
    """Number of events by source."""
    malformed: int = 0

    def position(self) -> dict[str, int]:
        """The counts as a checkpoint holds them."""
        return {"sequence": self.sequence} | {f"source/{name}": count for name, count in self.sources.items()}


class EventLog:
    """Event log in the folder of one run."""

    def __init__(self, folder: Path, run: str, group: str = "", name: str = "events") -> None:
        """
        Args:
            run: name of the run, in every record.
            group: group of the run within that name, such as a side of an A/B comparison.
            name: of the file of lines and of the folder of compacted events.
        """
        self.folder, self.run, self.group = folder, run, group
        self.tail, self._parts = folder / f"{name}.jsonl", folder / name
        self.counts = Counts()

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records with their numbers. Numbers that are not finite become null and are listed in ``nonfinite``.

        Raises:
            RecordError: if a record does not match its declaration and ``ESPER_STRICT_TELEMETRY`` is set. Otherwise
                a record of kind ``malformed`` holds it.
        """
        lines = [json.dumps(self._numbered(json_record(self._checked(record))), allow_nan=False) for record in records]
        with self.tail.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

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
        provenance = {"run": self.run, "group": self.group, "source": source}
        numbers = {"source_seq": self.counts.sources[source], "seq": self.counts.sequence}
        self.counts.sources[source] += 1
        self.counts.sequence += 1
        return {"schema": EVENT_SCHEMA, **provenance, **numbers, **record}

    def compact(self, *, always: bool = False) -> None:
        """Compact the lines to Parquet if they are many, or ``always``."""
        if self.tail.stat().st_size < (1 if always else COMPACT_BYTES):
            return
        records = list(self._lines(after=self._compacted(), evidence=True))
        if records:
            write_part(self._parts, records)
        _replace(self.tail, "")

    def parts(self) -> list[Part]:
        """Folders of Parquet files, in order."""
        return parts_in(self._parts)

    def _compacted(self) -> int:
        """Number of the last compacted event; -1 if there is none."""
        parts = self.parts()
        return parts[-1].last if parts else -1

    def records(self, *, evidence: bool = False) -> Iterator[dict[str, Any]]:
        """All events, in order.

        Args:
            evidence: whether the log must be complete and undamaged.

        Raises:
            EventLogError: if a file is of another version or cannot be read; for ``evidence`` also if a line cannot be
                read, a file is damaged, or an event is missing, at the end too if the run is finished. Otherwise
                such lines are skipped, with a warning that names them.
        """
        parts, lines = self.held(evidence=evidence)
        for part in parts:
            yield from part.records()
        yield from lines

    def held(self, *, evidence: bool) -> tuple[list[Part], list[dict[str, Any]]]:
        """Folders of Parquet files, and events that are still lines of JSON.

        Args:
            evidence: whether the log must be complete and undamaged.

        Raises:
            EventLogError: see :meth:`records`. Damage that is no error is logged as a warning.
        """
        parts, lines = self._snapshot(evidence=evidence)
        problems = list(self._missing(parts, lines))
        if evidence:
            problems += [problem for part in parts for problem in part.damage()]
        for problem in problems:
            if evidence:
                raise EventLogError(problem)
            logger.warning("%s", problem)
        return parts, lines

    def _snapshot(self, *, evidence: bool) -> tuple[list[Part], list[dict[str, Any]]]:
        """Parts and lines at one moment. Lines are read first: those that are compacted meanwhile are in the parts."""
        lines = list(self._lines(after=-1, evidence=evidence))
        parts = self.parts()
        compacted = parts[-1].last if parts else -1
        return parts, [line for line in lines if line["seq"] > compacted]

    def _missing(self, parts: Sequence[Part], lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        expected = 0
        for first, last in [*((part.first, part.last) for part in parts), *((line["seq"],) * 2 for line in lines)]:
            if first != expected:
                yield f"{self.folder}: events {expected} to {first - 1} are missing"
            expected = last + 1
        try:
            counted = int(json.loads((self.folder / INTEGRITY).read_text())["events"])
        except FileNotFoundError:
            return  # the run is not finished
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield f"{self.folder / INTEGRITY} cannot be read: {error}"
            return
        if expected < counted:
            yield f"{self.folder}: events {expected} to {counted - 1} are missing: {INTEGRITY} counts {counted}"

    def of_kinds(self, kinds: Collection[str]) -> Iterator[dict[str, Any]]:
        """Events of some kinds, in order within each part. Files of other kinds are not read.

        Raises:
            EventLogError: if a file is of another version or cannot be read.
        """
        parts, lines = self._snapshot(evidence=False)
        for part in parts:
            yield from part.records(kinds)
        yield from (line for line in lines if line["kind"] in kinds)

    def everything(self, *, evidence: bool) -> Iterator[dict[str, Any]]:
        """All events in order, gaps or not. Otherwise like ``records``."""
        parts, lines = self._snapshot(evidence=evidence)
        for part in parts:
            yield from part.records()
        yield from lines

    def _lines(self, *, after: int, evidence: bool) -> Iterator[dict[str, Any]]:
        """Events in ``events.jsonl`` whose number is greater than ``after``."""
        if not self.tail.exists():
            return
        with self.tail.open() as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                except ValueError as error:
                    problem = f"line {number} of {self.tail} is not JSON: {error}"
                    if evidence:
                        raise EventLogError(problem) from error
                    logger.warning("%s", problem)
                    continue
                check_schema(record.pop("schema", None), self.tail)
                if record["seq"] > after:
                    yield record

    def lines_from(self, sequence: int) -> str:
        """Lines of JSON that are not compacted, from event ``sequence`` on."""
        return "".join(line for line in self._raw_lines() if (_sequence_of(line) or 0) >= sequence)

    def rewind(self, position: Mapping[str, int]) -> None:
        """Remove the events after ``position``.

        Raises:
            EventLogError: if the log is shorter than that, or of another version.
        """
        next(self._lines(after=-1, evidence=False), None)  # a log of another version stays unchanged
        sequence, compacted = position["sequence"], -1
        for part in self.parts():
            if part.last >= sequence:
                earlier = [record for record in part.records() if record["seq"] < sequence]
                if earlier:
                    write_part(self._parts, earlier)
                shutil.rmtree(part.path)
            compacted = min(part.last, sequence - 1)
        earlier_lines, end = [], compacted + 1
        for line in self._raw_lines():
            number = _sequence_of(line)
            if number is None or number >= sequence:
                break
            if number > compacted:
                earlier_lines.append(line)
                end = number + 1
        if end < sequence:
            raise EventLogError(f"{self.folder}: the log ends with event {end - 1}, the checkpoint with {sequence - 1}")
        (self.folder / INTEGRITY).unlink(missing_ok=True)
        _replace(self.tail, "".join(earlier_lines))
        sources = {name.removeprefix("source/"): n for name, n in position.items() if name.startswith("source/")}
        self.counts = Counts(sequence, Counter(sources))

    def keep_whole_lines(self) -> None:
        """Remove truncated lines."""
        if self.tail.exists():
            _replace(self.tail, "".join(line for line in self._raw_lines() if _sequence_of(line) is not None))

    def _raw_lines(self) -> list[str]:
        return self.tail.read_text().splitlines(keepends=True) if self.tail.exists() else []


def json_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with JSON types, as in the event log. Numbers that are not finite become null and are listed."""
    nonfinite: list[str] = []
    clean: dict[str, Any] = json.loads(json.dumps(_strict(dict(record), "", nonfinite), allow_nan=False))
    return clean | ({"nonfinite": nonfinite} if nonfinite else {})


def source_of(record: Mapping[str, Any]) -> str:
    """Source of a record: an environment, the learner, or the driver."""
    if record["kind"] == "ppo_update":
        return "learner"
    return f"env-{record['env']}" if "env" in record and "step" in record else "driver"


def _sequence_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["seq"])
    except (ValueError, KeyError, TypeError):
        return None


def _replace(path: Path, content: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(content)
    os.replace(temporary, path)


def _strict(value: Any, path: str, nonfinite: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _strict(v, f"{path}.{k}" if path else str(k), nonfinite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v, f"{path}[{i}]", nonfinite) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(path)
        return None
    return value


def integrity(log: EventLog) -> dict[str, Any]:
    """Counts of the log, its gaps and damage. Reads every line and every index."""
    sources: Counter[str] = Counter()
    gaps, kinds, problems = 0, Counter[str](), []
    expected = 0
    try:
        for record in log.everything(evidence=True):
            gaps += record["seq"] != expected
            expected = record["seq"] + 1
            gaps += record["source_seq"] != sources[record["source"]]
            sources[record["source"]] = record["source_seq"] + 1
            kinds[record["kind"]] += 1
    except EventLogError as error:
        problems.append(str(error))
    for part in log.parts():
        problems += part.damage()
    return {
        "schema": EVENT_SCHEMA,
        "complete": gaps == 0 and not problems and kinds["malformed"] == 0,
        "events": sum(kinds.values()),
        "gaps": gaps,
        "malformed": kinds["malformed"],
        "problems": problems,
        "kinds": dict(sorted(kinds.items())),
        "sources": dict(sorted(sources.items())),
        "parts": [part.path.name for part in log.parts()],
    }
