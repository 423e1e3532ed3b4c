"""Log of samples of a run, in lines of JSON and Parquet. Unlike the event log it is bounded and may be incomplete."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.numbering import Counts, LogPosition
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.log.reader import event_lines

LIMIT = 1_000_000
"""Greatest number of samples of a run."""
LOST = "samples_lost"


class SampleLog(EventLog):
    """``samples.jsonl`` and ``samples/``. A resumed run appends to them, repeated steps included."""

    exists_always = False
    is_complete = False

    def __init__(self, folder: Path, run: str, group: str = "", limit: int = LIMIT) -> None:
        """
        Args:
            limit: greatest number of samples; further ones are dropped.
        """
        super().__init__(folder, run, group, name="samples")
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
        """Count the existing samples, and remove a truncated line.

        Raises:
            EventLogError: if a part is damaged.
        """
        self._counted = True
        self.cut_torn_line(event_lines(self.tail, self.names, required=False))
        content = self.read(evidence=False)
        sources = Counter(event["source"] for event in content.events)
        for part in content.parts:
            sources.update(part.index().sources)
        last = content.events[-1]["seq"] if content.lines else content.parts[-1].last if content.parts else -1
        self.counts = Counts(last + 1, sources)
        if not content.problems and self.tail.exists():
            lines = self.tail.read_bytes()
            self._written, self._written_bytes = sha256(lines), len(lines)

    def check(self, position: LogPosition) -> None:
        """Check that samples can be added. A resumed run keeps all samples, whatever ``position`` it has.

        Raises:
            EventLogError: if a part is damaged, or the log is of another version.
        """
        for problem in self.content(digests=False).problems:
            if problem.fatal:
                raise EventLogError(problem.text)

    def compact(self, *, always: bool = False) -> None:
        """See :meth:`EventLog.compact`."""
        if self.tail.exists():
            super().compact(always=always)

    def summary(self) -> dict[str, Any]:
        """Numbers of samples and of samples known to be lost, and problems of the files."""
        try:
            content = self.content(digests=True)
            rows = sum(kind.rows for part in content.parts for kind in part.index().kinds.values())
            lost = sum(record["count"] or 0 for record in content.records((LOST,)))
        except EventLogError as error:
            return {"samples": None, "lost": None, "sample_problems": [str(error)]}
        problems = [problem.text for problem in content.problems]
        return {"samples": rows + len(content.lines), "lost": lost, "sample_problems": problems}
