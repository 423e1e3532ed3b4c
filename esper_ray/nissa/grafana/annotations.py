"""What a run's marks in Grafana are: seeds that were fossilised, rollbacks, anomalies.

Events carry a logical clock, so that equal runs have equal logs; when a round ended is in ``timings.csv``. Marks of
seeds and rollbacks are at the end of their round, one for each kind and round, where the metrics change too; an
anomaly is a region from the round that showed it first to the one that no longer did.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from esper_ray.nissa.log.sql import EventDatabase
from esper_ray.nissa.runs.run_directory import RunDirectory, RunDirectoryError

MARKED = ("fossilised", "rollback", "anomaly")
"""Kinds of marks."""
NAMED = 8
"""Seeds or environments that a mark names; of more it says how many."""
_FOSSILISED = """
    SELECT round, env, slot, blueprint FROM seed_transition WHERE "to" = 'FOSSILIZED' ORDER BY round, env, seq"""
_ROLLBACKS = "SELECT round, env, reason, value, threshold FROM rollback ORDER BY round, env, seq"
_ANOMALIES = "SELECT round, type, subject, open, value, threshold FROM anomaly ORDER BY seq"


class Annotation(NamedTuple):
    """A point or a region of time, with what happened there."""

    start: int
    """Milliseconds since 1970, as is ``end``, which is the same for a point."""
    end: int
    kind: str
    """One of ``MARKED``."""
    text: str


def annotations(run: RunDirectory) -> list[Annotation]:
    """All marks of a run, which may be going on: its rounds that are over, in the order of their ends.

    Raises:
        RunDirectoryError: if it does not say when its rounds ended.
        EventLogError: if its events cannot be read.
    """
    ends = _ends(run)
    with EventDatabase(run.event_log, evidence=True) as database:
        seeds, rollbacks, anomalies = (
            [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
            for answer in map(database.ask, (_FOSSILISED, _ROLLBACKS, _ANOMALIES))
        )
    found = [
        *_of_rounds("fossilised", ((one["round"], _seed(one)) for one in seeds), ends),
        *_of_rounds("rollback", ((one["round"], _rollback(one)) for one in rollbacks), ends),
        *_regions(anomalies, ends),
    ]
    return sorted(found)


def _ends(run: RunDirectory) -> dict[int, int]:
    """When each round ended, in milliseconds since 1970."""
    try:
        return {int(row["round"]): round(float(row["ended"]) * 1000) for row in run.timings()}
    except (KeyError, TypeError, ValueError) as error:
        problem = "an older version wrote it" if isinstance(error, KeyError) else str(error)
        raise RunDirectoryError(f"{run.path / 'timings.csv'} does not say when rounds ended: {problem}") from error


def _of_rounds(kind: str, told: Iterable[tuple[int, str]], ends: Mapping[int, int]) -> Iterator[Annotation]:
    """One mark for every round in which anything is told."""
    by_round: dict[int, list[str]] = {}
    for number, one in told:
        by_round.setdefault(number, []).append(one)
    for number, words in by_round.items():
        if number in ends:
            more = [f"and {len(words) - NAMED} more"] if len(words) > NAMED else []
            text = f"{kind} in round {number} ({len(words)}): {'; '.join([*words[:NAMED], *more])}"
            yield Annotation(ends[number], ends[number], kind, text)


def _seed(one: Mapping[str, Any]) -> str:
    return f"env {one['env']}, {one['slot']}: {one['blueprint']}"


def _rollback(one: Mapping[str, Any]) -> str:
    return f"env {one['env']}: {one['reason']}{_measured(one)}"


def _measured(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return ""
    beyond = "" if one["threshold"] is None else f", threshold {one['threshold']:.4g}"
    return f" ({one['value']:.4g}{beyond})"


def _regions(anomalies: Iterable[Mapping[str, Any]], ends: Mapping[int, int]) -> Iterator[Annotation]:
    """From begin to end; what is not over yet lasts to the end of the last round."""
    begun: dict[tuple[str, str | None], Annotation] = {}
    for one in anomalies:
        name = (one["type"], one["subject"])
        if one["round"] not in ends:
            continue
        if one["open"]:
            about = f" of {one['subject']}" if one["subject"] else ""
            text = f"anomaly from round {one['round']}: {one['type']}{about}{_measured(one)}"
            begun[name] = Annotation(ends[one["round"]], max(ends.values()), "anomaly", text)
        elif name in begun:
            yield begun.pop(name)._replace(end=ends[one["round"]])
    yield from begun.values()
