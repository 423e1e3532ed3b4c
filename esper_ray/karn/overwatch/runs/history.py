"""What a run page shows of every round and the state does not hold: spreads, updates, marks."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from esper_ray.karn.record_lines import anomaly_text
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.lines import json_lines
from esper_ray.nissa.log.parquet import Part

UPDATE_DETAILS = tuple(field.name for field in KINDS["ppo_update"].fields if field.added)
"""Diagnostics of an update that its round does not repeat."""

COUNTED: Mapping[str, tuple[str, ...] | None] = {
    "outcome": ("round", "val_accuracy_pp", "total_reward"),
    "seed_transition": ("round", "to"),
    "rollback": ("round", "reason"),
    "round": ("round",),
    "ppo_update": None,
    "anomaly": None,
}
"""Kinds that count, with their columns; ``None``: all."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, greatest and standard deviation of a number over the episodes of a round."""

    least: float
    greatest: float
    deviation: float


class RoundHistory:
    """Collector of numbers by round. Its size grows with the rounds, not with the events.

    A follower gives it only the newest events of compacted parts. Then it ``is_partial`` until :meth:`read` has read
    the others.
    """

    def __init__(self) -> None:
        self.revision = 0
        """Number of times that it was read anew."""
        self.clear()

    def clear(self) -> None:
        """Drop everything."""
        self.is_partial = False
        self._next = 0
        """Number of the next event."""
        self.accuracies_pp: dict[int, Spread] = {}
        self.returns: dict[int, Spread] = {}
        self.updates: dict[int, Mapping[str, Any]] = {}
        """Diagnostics of each update, by round."""
        self._open: dict[str, list[float]] = {"val_accuracy_pp": [], "total_reward": []}
        self._fossilized: Counter[int] = Counter()
        self._rollbacks: dict[int, Counter[str]] = {}
        self._anomalies: list[tuple[int, str]] = []
        self.marked = 0
        """Number of events that have changed the marks."""

    def event(self, record: Record) -> None:
        """Add an event of the log, unless those before it are missing."""
        number = record["seq"]
        if number > self._next:
            self.is_partial = True
        elif number == self._next:
            self._next += 1
            self._add(record)

    def _add(self, record: Record) -> None:
        add = getattr(self, f"_{record['kind']}", None)
        if add is not None:
            add(record)

    def read(self, log: EventLog) -> None:
        """Read the whole log, of its parts only the files that are needed.

        Raises:
            EventLogError: if it cannot be read.
        """
        self.clear()
        self.revision += 1
        parts = log.parts()
        for part in parts:
            for record in _part_records(part):
                self._add(record)
            self._next = part.last + 1
        for line in json_lines(log.tail) if log.tail.exists() else ():
            if line.problem is None and line.record.get("seq") == self._next:
                self._next += 1
                with suppress(KeyError, TypeError, ValueError):
                    self._add(line.record)

    def live_step(self, record: Record) -> None:
        """Steps in play belong to no round yet."""

    def sample(self, record: Record) -> None:
        """Samples do not count."""

    def marks(self) -> list[dict[str, Any]]:
        """Rounds with fossilized seeds, rollbacks and anomalies, in order of rounds."""
        marks = [_mark(index, "fossilized", f"{count} fossilized") for index, count in self._fossilized.items()]
        for index, reasons in self._rollbacks.items():
            marks.append(_mark(index, "rollback", ", ".join(f"{count} {name}" for name, count in reasons.items())))
        marks += [_mark(index, "anomaly", text) for index, text in self._anomalies]
        return sorted(marks, key=lambda mark: (mark["round"], mark["kind"]))

    def _outcome(self, record: Record) -> None:
        for name, values in self._open.items():
            if record[name] is not None:
                values.append(record[name])

    def _round(self, record: Record) -> None:
        for name, spreads in (("val_accuracy_pp", self.accuracies_pp), ("total_reward", self.returns)):
            if values := self._open[name]:
                spreads[record["round"]] = Spread(min(values), max(values), pstdev(values, fmean(values)))
            values.clear()

    def _ppo_update(self, record: Record) -> None:
        self.updates[record["round"]] = {name: record.get(name) for name in UPDATE_DETAILS}

    def _seed_transition(self, record: Record) -> None:
        if record["to"] == "FOSSILIZED":
            self._fossilized[record["round"]] += 1
            self.marked += 1

    def _rollback(self, record: Record) -> None:
        self._rollbacks.setdefault(record["round"], Counter())[record["reason"]] += 1
        self.marked += 1

    def _anomaly(self, record: Record) -> None:
        self._anomalies.append((record["round"], f"{'begins' if record['open'] else 'ends'}: {anomaly_text(record)}"))
        self.marked += 1


def _part_records(part: Part) -> list[dict[str, Any]]:
    """The events of a part that count, with the columns that do, in order.

    Raises:
        EventLogError: if a file cannot be read.
    """
    records: list[dict[str, Any]] = []
    for kind in part.index().kinds:
        columns = COUNTED.get(kind, ())
        if columns is None:
            records += part.records((kind,))
        elif columns:
            rows = part.table(kind, ["seq", *columns]).to_pylist()
            records += [{**row, "kind": kind} for row in rows]
    return sorted(records, key=lambda record: int(record["seq"]))


def _mark(index: int, kind: str, text: str) -> dict[str, Any]:
    return {"round": index, "kind": kind, "text": text}


class Collectors:
    """Collector that gives every record to several others."""

    def __init__(self, *others: Any) -> None:
        self._others = others

    def event(self, record: Record) -> None:
        """Add an event of the log."""
        for other in self._others:
            other.event(record)

    def live_step(self, record: Record) -> None:
        """Add a step of an episode in play."""
        for other in self._others:
            other.live_step(record)

    def sample(self, record: Record) -> None:
        """Add a sample."""
        for other in self._others:
            other.sample(record)

    def clear(self) -> None:
        """Drop everything."""
        for other in self._others:
            other.clear()
