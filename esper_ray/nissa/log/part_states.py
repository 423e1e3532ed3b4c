"""States of the parts of a log: from their summaries, else folded once and cached.

A summary beside a part is written with it. A part of an older program has none, or one that this program cannot use;
its state is folded from its events and kept in the user's cache folder. Nothing is written beside a part.
"""

import os
from contextlib import suppress
from pathlib import Path

from esper_ray.leyline.files.durable import write_file
from esper_ray.leyline.files.user_cache import named_cache, user_cache
from esper_ray.nissa.log.lines import read_content
from esper_ray.nissa.log.parquet import SUMMARY, Part
from esper_ray.nissa.state.codec import state_of, state_of_summary, summary_text
from esper_ray.nissa.state.fold import FOLDED
from esper_ray.nissa.state.run_state import RunState

CACHE_BYTES = 2**28
"""Greatest size of all cached states; those that were not used for the longest time are removed."""
_CHECK_BYTES = 2**24
"""Bytes that one process writes between two looks at that size."""


class PartStates:
    """States of parts. An object is used from one thread at a time."""

    def __init__(self, folder: Path | None = None) -> None:
        """
        Args:
            folder: of cached states; by default ``summaries`` in the user's cache folder.
        """
        self._folder = folder or (named_cache() or user_cache()) / "summaries"
        self._unchecked = _CHECK_BYTES

    def of(self, part: Part) -> RunState:
        """The state of the events of a part.

        Raises:
            EventLogError: if its index is damaged; if it has no summary, also if its events are.
            StateError: if it has none and an event is not as its kind declares it.
        """
        digest = part.digest()
        for file in (part.path / SUMMARY, self._file(digest)):
            with suppress(ValueError):  # missing, damaged, of another version or another part
                state = state_of_summary(read_content(file), digest)
                if file.parent == self._folder:
                    _mark_used(file)
                return state
        state = state_of(part.records(columns=FOLDED))
        self._keep(state, digest)
        return state

    def _file(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"

    def _keep(self, state: RunState, digest: str) -> None:
        """Cache a state. Without a folder that can be written, the part is folded again the next time."""
        content = summary_text(state, digest)
        if not self._folder.is_absolute():
            return  # no home folder is known
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(self._file(digest), content, flush=False)
            self._unchecked += len(content)
            if self._unchecked >= _CHECK_BYTES:
                self._unchecked = 0
                _shrink(self._folder, CACHE_BYTES)


def _mark_used(file: Path) -> None:
    with suppress(OSError):
        os.utime(file)


def _shrink(folder: Path, limit: int) -> None:
    """Remove the least recently used files above a total of ``limit`` bytes.

    Raises:
        OSError: if the folder cannot be read.
    """
    found = []
    for entry in os.scandir(folder):
        with suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            found.append((status.st_mtime_ns, status.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with suppress(OSError):
            os.unlink(path)
            total -= size
