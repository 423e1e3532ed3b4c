"""The newest events of compacted parts, read from the end."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.parquet import Part

Records = list[dict[str, Any]]


def newest_records(parts: Sequence[Part], kept: int, episodes: Mapping[Part, Mapping[int, int]], files: int) -> Records:
    """The newest events of each kind, and all of some episodes, in order.

    Files without any of them are not read.

    Args:
        parts: in order.
        kept: number of events of each kind.
        files: most files of each kind in which they are searched: of a kind with few events in each part fewer than
            ``kept`` are found.
        episodes: episodes that are read whole, by environment, of the parts that hold some of their events.

    Raises:
        EventLogError: if a part is damaged.
    """
    missing: dict[str, int] = defaultdict(lambda: kept)
    unread: dict[str, int] = defaultdict(lambda: files)
    records: Records = []
    for part in reversed(parts):
        whole = episodes.get(part, {})
        for kind, file in part.index().kinds.items():
            in_episodes = whole if {"env", "episode"} <= set(KINDS[kind].clock) else {}
            newest = missing[kind] if unread[kind] > 0 else 0
            if newest > 0 or in_episodes:
                table = part.table(kind)
                records += part.rows(kind, _rows(table, _chosen(table, newest, in_episodes)))
            missing[kind] -= file.rows
            unread[kind] -= 1
    records.sort(key=lambda record: int(record["seq"]))
    return records


def _chosen(table: pa.Table, newest: int, episodes: Mapping[int, int]) -> np.ndarray[Any, Any]:
    """(rows,) whether a row is among the ``newest``, or of one of these episodes."""
    chosen: np.ndarray[Any, Any] = np.arange(table.num_rows) >= table.num_rows - newest
    if episodes:
        env, episode = (_numbers(table, name) for name in ("env", "episode"))
        last = np.full(max(env.max(initial=0), *episodes) + 1, -1)
        last[list(episodes)] = list(episodes.values())
        chosen |= last[env] == episode
    return chosen


def _numbers(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    """(rows,) numbers of a column. Arrow's own conversion imports pandas, which takes longer than the reading."""
    return np.array(table[name].to_pylist(), dtype=np.int64)


def _rows(table: pa.Table, chosen: np.ndarray[Any, Any]) -> pa.Table:
    """The chosen rows. Arrow's own filter imports much as well."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False)).reshape(-1, 2)
    slices = [table.slice(int(begin), int(end - begin)) for begin, end in edges]
    return pa.concat_tables(slices) if slices else table.slice(0, 0)


def record_at(part: Part, sequence: int) -> dict[str, Any] | None:
    """One event of a part; ``None`` if it holds none with this number.

    Raises:
        EventLogError: if the part is damaged.
    """
    for kind in part.index().kinds:
        rows = np.flatnonzero(_numbers(part.table(kind, ["seq"]), "seq") == sequence)
        if len(rows):
            return part.rows(kind, part.table(kind).slice(int(rows[0]), 1))[0]
    return None
