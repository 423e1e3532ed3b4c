"""Position of a checkpoint in the growing files of its run."""

from collections.abc import Mapping
from pathlib import Path

from esper_ray.leyline.files.digests import FilePrefix, digest_of
from esper_ray.leyline.files.validation import SavedRecord
from esper_ray.nissa.log.numbering import LogPosition
from esper_ray.nissa.runs.run_files import RunDirectoryError, read_rows

ROUNDS_FILE, TIMINGS_FILE = "rounds.csv", "timings.csv"
GROWING = (ROUNDS_FILE, TIMINGS_FILE)
"""Tables that a run appends to; a checkpoint holds their sizes and digests."""


class Position(SavedRecord):
    """What the growing files of a run held when a checkpoint was made."""

    rounds: FilePrefix
    timings: FilePrefix
    events: LogPosition

    @property
    def tables(self) -> Mapping[str, FilePrefix]:
        """Sizes and digests of the tables, by the name of the file."""
        return {ROUNDS_FILE: self.rounds, TIMINGS_FILE: self.timings}


_EMPTY = FilePrefix.of(b"")
START = Position(
    rounds=_EMPTY,
    timings=_EMPTY,
    events=LogPosition(sequence=0, sources={}, lines_from=0, lines_sha256=_EMPTY.sha256),
)
"""Position of a run that has not started."""


def check_table(file: Path, prefix: FilePrefix, rounds: int | None = None) -> None:
    """Check that a table begins with ``prefix``. Nothing is changed.

    Args:
        rounds: number of rounds that it must hold there; ``None``: any.

    Raises:
        RunDirectoryError: if it is shorter than that, ends there in the middle of a line or in another round, has a
            damaged line, or was changed.
    """
    size = file.stat().st_size if file.exists() else 0
    if size < prefix.size:
        raise RunDirectoryError(f"{file} has {size} bytes, but the checkpoint was made at {prefix.size}")
    rows = read_rows(file, end=prefix.size) if file.exists() else []
    if rounds is not None and (len(rows) != rounds or (prefix.size > 0) != (rounds > 0)):
        raise RunDirectoryError(
            f"{file} has {len(rows)} rounds in its first {prefix.size} bytes, but the checkpoint was made after "
            f"{rounds}"
        )
    if prefix.size and digest_of(file, prefix.size) != prefix.sha256:
        raise RunDirectoryError(
            f"{file} has changed since it was written: the SHA-256 of its first {prefix.size} bytes is not that in the "
            "checkpoint"
        )
