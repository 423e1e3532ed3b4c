"""Records of a log, newest first, by kind and text. It is read backward, as far as is needed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_ray.karn.record_lines import record_line
from esper_ray.leyline.errors import UsageError, shortened
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.lines import json_lines
from esper_ray.nissa.log.parquet import EventLogError, parts_in
from esper_ray.nissa.runs.run_directory import RunDirectory

MOST_RECORDS = 1000
MOST_PARTS = 5
"""Compacted parts that one page reads; the next one goes on from there."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """One page of a log."""

    records: tuple[Record, ...]
    """Newest first, each with its ``line`` of text."""
    before: int | None
    """Number from which the next page goes back; ``None``: there is no earlier record."""


def log_page(run: RunDirectory, kind: str = "", text: str = "", before: int | None = None, limit: int = 200) -> LogPage:
    """The newest records before number ``before``.

    Args:
        kind: only this kind; of samples only if it is one of them. Empty: all events.
        text: part of the line of text, in any case.

    Raises:
        UsageError: if ``kind`` is unknown.
        EventLogError: if the log cannot be read.
    """
    if kind and kind not in KINDS:
        raise UsageError(f"kind {shortened(kind)}: it must be one of {', '.join(KINDS)}")
    limit = max(1, min(limit, MOST_RECORDS))
    found: list[Record] = []
    end = before
    for block in _blocks(run, kind, before):
        for record in reversed(block.records):
            line = record_line(record)
            if (kind and record["kind"] != kind) or (text and text.lower() not in line.lower()):
                continue
            if before is not None and record["seq"] >= before:
                continue
            if len(found) == limit:
                return LogPage(tuple(found), found[-1]["seq"])
            found.append({**record, "line": line})
        end = block.first
        if block.is_last:
            return LogPage(tuple(found), end)
    return LogPage(tuple(found), None)


@dataclass(frozen=True, slots=True)
class _Block:
    """Records that are read at once."""

    records: list[dict[str, Any]]
    first: int
    is_last: bool = False
    """Whether there are earlier ones that this page does not read."""


def _blocks(run: RunDirectory, kind: str, before: int | None) -> Iterator[_Block]:
    """Lines, then parts, the newest first."""
    is_sample = bool(kind) and KINDS[kind].delivery == "sample"
    log = run.samples if is_sample else run.event_log
    parts = parts_in(log.folder / log.tail.stem)
    compacted = parts[-1].last if parts else -1
    lines = [record for record in _lines(log.tail) if record["seq"] > compacted]
    if lines:
        yield _Block(lines, lines[0]["seq"])
    earlier = [part for part in reversed(parts) if before is None or part.first < before]
    for number, part in enumerate(earlier, 1):
        records = part.records((kind,) if kind else None)
        yield _Block(records, part.first, is_last=number == MOST_PARTS and number < len(earlier))


def _lines(file: Path) -> list[dict[str, Any]]:
    """Sound lines of a log in the order of their numbers."""
    try:
        records = [dict(line.record) for line in json_lines(file) if line.problem is None]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise EventLogError(f"{file} cannot be read: {error}") from error
    sound = [record for record in records if type(record.get("seq")) is int and isinstance(record.get("kind"), str)]
    for record in sound:
        record.pop("schema", None)
    return sorted(sound, key=lambda record: int(record["seq"]))


def page_tree(page: LogPage) -> Mapping[str, Any]:
    """A page with the kinds that can be asked for."""
    return {"records": list(page.records), "kinds": list(KINDS), "before": page.before}
