"""The samples of a run: lines of JSON and Parquet like its events, but bounded, and never asked to be complete."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from esper_ray.nissa.log.events import Counts, EventLog
from esper_ray.nissa.log.parquet import Part

LIMIT = 1_000_000
"""Samples that are kept of a run."""
LOST = "samples_lost"


class SampleLog(EventLog):
    """``samples.jsonl`` and ``samples/``. A run that is gone on with adds to what is there, repeated steps too."""

    def __init__(self, folder: Path, run: str, group: str = "", limit: int = LIMIT) -> None:
        """
        Args:
            limit: samples beyond which no more are kept.
        """
        super().__init__(folder, run, group, "samples")
        self._limit, self._looked = limit, False

    def add(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write samples, numbered, as far as there is room.

        Returns:
            How many there was no room for. The first of them leaves a record of kind ``samples_lost``.

        Raises:
            RecordError: see :meth:`EventLog.append`.
        """
        found = list(records)
        if not self._looked:
            self._take_up()
        room = max(0, self._limit - self.counts.sequence)
        kept, lost = found[:room], found[room:]
        if lost and self.counts.sequence <= self._limit:  # the last that is said
            clock = {name: lost[0][name] for name in ("round", "episode", "env")}
            kept.append({"kind": LOST, **clock, "time": time.time(), "count": len(lost), "reason": "full"})
        if kept:
            self.append(kept)
        return len(lost)

    def _take_up(self) -> None:
        """Count what is there, without a line that was cut off."""
        self._looked = True
        sources, compacted = Counter[str](), -1
        for part in self.parts():
            sources.update(part.index()["sources"])
            compacted = part.last
        lines = list(self._lines(after=compacted, evidence=False))
        sources.update(record["source"] for record in lines)
        self.keep_whole_lines()
        self.counts = Counts(lines[-1]["seq"] + 1 if lines else compacted + 1, sources)

    def held(self, *, evidence: bool = False) -> tuple[list[Part], list[dict[str, Any]]]:
        """See :meth:`EventLog.held`. Samples may be missing."""
        return self._snapshot(evidence=evidence)

    def compact(self, *, always: bool = False) -> None:
        """See :meth:`EventLog.compact`."""
        if self.tail.exists():
            super().compact(always=always)

    def lost(self) -> int:
        """How many are known to be lost."""
        count: int = 0
        for part in self.parts():
            if LOST in part.index()["kinds"]:
                column = pq.read_table(part.path / f"{LOST}.parquet", columns=["count"])["count"]
                count += int(pc.sum(column).as_py())
        rest = self._lines(after=self._compacted(), evidence=False)
        return count + sum(int(record["count"]) for record in rest if record["kind"] == LOST)

    def summary(self) -> dict[str, int]:
        """How many samples there are, and how many are known to be lost."""
        rows = sum(kind["rows"] for part in self.parts() for kind in part.index()["kinds"].values())
        lines = sum(1 for _ in self._lines(after=self._compacted(), evidence=False))
        return {"samples": rows + lines, "lost": self.lost()}
