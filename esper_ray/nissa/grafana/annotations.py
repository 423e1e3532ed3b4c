"""Annotations of a run in Grafana: fossilized seeds, rollbacks, anomalies.

Events carry a logical clock, so that equal runs have equal logs; ``timings.csv`` holds the end of each round.
Annotations of seeds and rollbacks are points at the end of their round, one for each kind and round, where the metrics
change too; an anomaly is a region from its first round to its end.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from esper_ray.nissa.log.sql import EventDatabase
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError

MARKED = ("fossilised", "rollback", "anomaly")
"""Kinds of annotations."""
TITLES = {"fossilised": "fossilized", "rollback": "rollback"}
"""Beginnings of the texts, by kind. A kind is the tag of an annotation, whose spelling stored annotations have."""
NAMED = 8
"""Most seeds or environments that an annotation names; further ones are counted."""
_FOSSILIZED = """
    SELECT round, env, slot, blueprint FROM seed_transition WHERE "to" = 'FOSSILIZED' ORDER BY round, env, seq"""
_ROLLBACKS = "SELECT round, env, reason, value, threshold FROM rollback ORDER BY round, env, seq"
_ANOMALIES = "SELECT round, type, subject, open, value, threshold FROM anomaly ORDER BY seq"


class Annotation(NamedTuple):
    """Text at a point or a region of time."""

    start: int
    """Milliseconds since 1970, like ``end``, which is equal for a point."""
    end: int
    kind: str
    """One of ``MARKED``."""
    text: str


def annotations(run: RunDirectory) -> list[Annotation]:
    """Annotations of the finished rounds of a run, in the order of their ends.

    Raises:
        RunDirectoryError: if its timings do not hold the end of each round.
        EventLogError: if its events cannot be read.
    """
    ends = _ends(run)
    with EventDatabase(run.event_log, evidence=True) as database:
        seeds, rollbacks, anomalies = (
            [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
            for answer in map(database.ask, (_FOSSILIZED, _ROLLBACKS, _ANOMALIES))
        )
    marks = [
        *_round_marks("fossilised", ((row["round"], _seed(row)) for row in seeds), ends),
        *_round_marks("rollback", ((row["round"], _rollback(row)) for row in rollbacks), ends),
        *_regions(anomalies, ends),
    ]
    return sorted(marks)


def _ends(run: RunDirectory) -> dict[int, int]:
    """End of each round in milliseconds since 1970."""
    try:
        return {int(row["round"]): round(float(row["ended"]) * 1000) for row in run.timings()}
    except (KeyError, OverflowError, ValueError) as error:
        problem = "an older version wrote it" if isinstance(error, KeyError) else str(error)
        raise RunDirectoryError(f"{run.path / 'timings.csv'} does not hold the end of each round: {problem}") from error


def _round_marks(kind: str, texts: Iterable[tuple[int, str]], ends: Mapping[int, int]) -> Iterator[Annotation]:
    """One annotation for every round with a text."""
    by_round: dict[int, list[str]] = {}
    for number, text in texts:
        by_round.setdefault(number, []).append(text)
    for number, words in by_round.items():
        if number in ends:
            more = [f"and {len(words) - NAMED} more"] if len(words) > NAMED else []
            summary = f"{TITLES[kind]} in round {number} ({len(words)}): {'; '.join([*words[:NAMED], *more])}"
            yield Annotation(ends[number], ends[number], kind, summary)


def _seed(row: Mapping[str, Any]) -> str:
    return f"env {row['env']}, {row['slot']}: {row['blueprint']}"


def _rollback(row: Mapping[str, Any]) -> str:
    return f"env {row['env']}: {row['reason']}{_measurement(row)}"


def _measurement(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return ""
    threshold = "" if row["threshold"] is None else f", threshold {row['threshold']:.4g}"
    return f" ({row['value']:.4g}{threshold})"


def _regions(anomalies: Iterable[Mapping[str, Any]], ends: Mapping[int, int]) -> Iterator[Annotation]:
    """Regions from start to end. An open anomaly extends to the end of the last round."""
    regions: dict[tuple[str, str | None], Annotation] = {}
    for row in anomalies:
        name = (row["type"], row["subject"])
        if row["round"] not in ends:
            continue
        if row["open"]:
            subject = f" of {row['subject']}" if row["subject"] else ""
            text = f"anomaly from round {row['round']}: {row['type']}{subject}{_measurement(row)}"
            regions[name] = Annotation(ends[row["round"]], max(ends.values()), "anomaly", text)
        elif name in regions:
            yield regions.pop(name)._replace(end=ends[row["round"]])
    yield from regions.values()
