"""Log of samples of a run, in lines of JSON and Parquet. Unlike the event log it is bounded and may be incomplete."""

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
"""Greatest number of samples of a run."""
LOST = "samples_lost"


class SampleLog(EventLog):
    """``samples.jsonl`` and ``samples/``. A resumed run appends to them, repeated steps included."""

    def __init__(self, folder: Path, run: str, group: str = "", limit: int = LIMIT) -> None:
        """
        Args:
            limit: greatest number of samples; further ones are dropped.
        """
        super().__init__(folder, run, group, "samples")
        self._limit, self._counted = limit, False

    def add(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write samples with their numbers, up to the limit.

        Returns:
            Number of dropped samples. The first drop leaves a record of kind ``samples_lost``.

        Raises:
            RecordError: see :meth:`EventLog.append`.
        """
        samples = list(records)
        if not self._counted:
            self._count()
        room = max(0, self._limit - self.counts.sequence)
        accepted, dropped = samples[:room], samples[room:]
        if dropped and self.counts.sequence <= self._limit:  # the last record of the log
            clock = {name: dropped[0][name] for name in ("round", "episode", "env")}
            accepted.append({"kind": LOST, **clock, "time": time.time(), "count": len(dropped), "reason": "full"})
        if accepted:
            self.append(accepted)
        return len(dropped)

    def _count(self) -> None:
        """Count the existing samples, and remove a truncated line."""
        self._counted = True
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
        """Number of samples that are known to be lost."""
        count: int = 0
        for part in self.parts():
            if LOST in part.index()["kinds"]:
                column = pq.read_table(part.path / f"{LOST}.parquet", columns=["count"])["count"]
                count += int(pc.sum(column).as_py())
        rest = self._lines(after=self._compacted(), evidence=False)
        return count + sum(int(record["count"]) for record in rest if record["kind"] == LOST)

    def summary(self) -> dict[str, int]:
        """Number of samples, and of those that are known to be lost."""
        rows = sum(kind["rows"] for part in self.parts() for kind in part.index()["kinds"].values())
        lines = sum(1 for _ in self._lines(after=self._compacted(), evidence=False))
        return {"samples": rows + lines, "lost": self.lost()}
