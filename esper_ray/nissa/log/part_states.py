"""States of the parts of a log: from their summaries, else folded once and cached.

A summary beside a part is written with it. A part of an older program has none, or one that this program cannot use;
its state is folded from its events and kept in the user's cache folder. So is the state of many first parts together,
from which a long log is opened the next time. Nothing is written beside a part.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
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


JOINED_PARTS = 16
"""The states of this many first parts, and of multiples, are cached together."""


@dataclass(frozen=True, slots=True)
class JoinedState:
    """State of the first parts of a log together."""

    count: int
    """Number of parts."""
    state: RunState
    episodes: Mapping[str, Mapping[int, int]]
    """The newest episode of each environment, by the name of the parts that hold some of its events."""


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

    def joined(self, parts: Sequence[Part]) -> JoinedState | None:
        """The state of as many first parts as are cached together; ``None`` if none are.

        Args:
            parts: all parts, from the first one.

        Raises:
            EventLogError: if an index is damaged.
        """
        for count, digest in sorted(_chain(parts).items(), reverse=True):
            file = self._file(digest)
            with suppress(ValueError, AttributeError):  # missing, damaged or of another version
                head, _, summary = read_content(file).partition(b"\n")
                state = state_of_summary(summary, digest)
                episodes = {
                    str(name): {int(env): int(episode) for env, episode in newest.items()}
                    for name, newest in json.loads(head).items()
                }
                _mark_used(file)
                return JoinedState(count, state, episodes)
        return None

    def keep_joined(self, parts: Mapping[Part, Mapping[int, int]], state: RunState) -> None:
        """Cache the state of the first parts of a log together.

        Args:
            parts: a multiple of ``JOINED_PARTS`` parts, with the newest episode of each environment in each of them.
        """
        digest = _chain(list(parts))[len(parts)]
        newest = {env: episode for episodes in parts.values() for env, episode in episodes.items()}
        shared = {part.path.name: dict(episodes.items() & newest.items()) for part, episodes in parts.items()}
        head = json.dumps({name: episodes for name, episodes in shared.items() if episodes})
        self._write(digest, f"{head}\n{summary_text(state, digest)}")

    def _file(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"

    def _keep(self, state: RunState, digest: str) -> None:
        """Cache the state of a part. Without a folder that can be written, it is folded again the next time."""
        self._write(digest, summary_text(state, digest))

    def _write(self, digest: str, content: str) -> None:
        if not self._folder.is_absolute():
            return  # no home folder is known
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(self._file(digest), content, flush=False)
            self._unchecked += len(content)
            if self._unchecked >= _CHECK_BYTES:
                self._unchecked = 0
                _shrink(self._folder, CACHE_BYTES)


def _chain(parts: Sequence[Part]) -> dict[int, str]:
    """Digest of the first parts together, by their number, for every multiple of ``JOINED_PARTS``."""
    chain, digests = sha256(), dict[int, str]()
    for count, part in enumerate(parts, start=1):
        chain.update(part.digest().encode())
        if count % JOINED_PARTS == 0:
            digests[count] = chain.hexdigest()
    return digests


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
