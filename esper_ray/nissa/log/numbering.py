"""Numbers and names of the events of a log, and positions of checkpoints."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from pydantic import model_validator

from esper_ray.leyline.files.digests import Digest
from esper_ray.leyline.files.validation import SavedRecord, Whole


class InheritedNames(SavedRecord):
    """Names in the first events of a log, which were copied from another run."""

    run: str
    group: str
    end: Whole
    """Number of the first event after them."""


@dataclass(frozen=True, slots=True)
class LogNames:
    """Run and group in the events of a log."""

    run: str
    group: str = ""
    inherited: Sequence[InheritedNames] = ()
    """Names in copied events, in order."""

    def problem(self, sequence: int, run: object, group: object) -> str | None:
        """First name of event ``sequence`` that is not that of the log: with the expected one, ``None`` without one."""
        origin = next((names for names in self.inherited if sequence < names.end), self)
        for name, expected, present in (("run", origin.run, run), ("group", origin.group, group)):
            if present != expected:
                return f"{name}: {expected!r} is expected, got {present!r:.80}"
        return None

    def until(self, sequence: int) -> tuple[InheritedNames, ...]:
        """Names in the events before event ``sequence``, for a log to which they are copied."""
        copied = [names for names in self.inherited if names.end < sequence]
        last = next((names for names in self.inherited if sequence <= names.end), self)
        return (*copied, InheritedNames(run=last.run, group=last.group, end=sequence))


class LogPosition(SavedRecord):
    """Position of a checkpoint in an event log."""

    sequence: Whole
    """Number of events before it."""
    sources: dict[str, Whole]
    """Number of events by source."""
    lines_from: Whole
    """Number of the first event that was a line when the checkpoint was made; those before it were compacted."""
    lines_sha256: Digest
    """Digest of the lines from there to the position."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """
        Raises:
            ValueError: if the sources have another number of events, or the lines begin behind the position.
        """
        if sum(self.sources.values()) != self.sequence:
            raise ValueError(f"sequence is {self.sequence}, its sources have {sum(self.sources.values())}")
        if self.lines_from > self.sequence:
            raise ValueError(f"lines_from is {self.lines_from}, at most sequence, {self.sequence}, is possible")
        return self


@dataclass(slots=True)
class Counts:
    """Numbers of written events."""

    sequence: int = 0
    """Number of the next event."""
    sources: Counter[str] = field(default_factory=Counter)
    """Number of events by source."""
    malformed: int = 0
