"""The newest records of a run, for what the state does not hold: log, episodes, seeds."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from esper_ray.leyline.records import Record

KEPT = 500
"""Newest records that are kept of each kind."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest records of a run at one moment."""

    by_kind: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)
    """The newest ``KEPT`` events of each kind, in order."""
    episodes: Mapping[int, tuple[Record, ...]] = field(default_factory=dict)
    """Records of the newest logged episode, by environment."""
    live: Mapping[int, tuple[Record, ...]] = field(default_factory=dict)
    """Steps of the episode in play, by environment."""
    decisions: Mapping[int, tuple[Record, ...]] = field(default_factory=dict)
    """Samples of decisions in the newest two episodes, by environment."""

    def episode(self, env: int) -> tuple[Record, ...]:
        """Records of the newest episode of an environment: of the one in play, else the logged one."""
        return self.live.get(env) or self.episodes.get(env, ())

    def events(self) -> list[Record]:
        """All of them, in the order of the log."""
        return sorted((record for records in self.by_kind.values() for record in records), key=lambda r: int(r["seq"]))

    def last(self, kind: str) -> Record | None:
        """The newest event of a kind."""
        records = self.by_kind.get(kind, ())
        return records[-1] if records else None


class RecentRecords:
    """Collector of the newest records."""

    def __init__(self, kept: int = KEPT) -> None:
        """
        Args:
            kept: records of each kind.
        """
        self._kept = kept
        self.clear()

    def clear(self) -> None:
        """Drop everything."""
        self._kinds: dict[str, deque[Record]] = {}
        self._episodes: dict[int, list[Record]] = {}
        self._live: dict[int, list[Record]] = {}
        self._decisions: dict[int, list[Record]] = {}
        self._changed = True
        self._shot = Recent()

    def event(self, record: Record) -> None:
        """Add an event of the log."""
        self._changed = True
        self._kinds.setdefault(record["kind"], deque(maxlen=self._kept)).append(record)
        if "episode" not in record or "env" not in record:
            return
        known = self._episodes.get(record["env"])
        if known is None or known[0]["episode"] != record["episode"]:
            known = self._episodes[record["env"]] = []
        known.append(record)
        live = self._live.get(record["env"])
        if live and live[0]["episode"] <= record["episode"]:
            del self._live[record["env"]]

    def live_step(self, record: Record) -> None:
        """Add a step of an episode in play, unless the log has that episode."""
        logged, live = self._episodes.get(record["env"]), self._live.get(record["env"])
        if logged and logged[0]["episode"] >= record["episode"]:
            return
        if live is None or live[0]["episode"] != record["episode"]:
            live = self._live[record["env"]] = []
        while live and live[-1]["step"] >= record["step"]:
            live.pop()  # the episode is read anew, or was resumed at an earlier step
        live.append(record)
        self._changed = True

    def sample(self, record: Record) -> None:
        """Add a sample; those that are no decision are not kept."""
        if record["kind"] != "decision":
            return
        known = self._decisions.setdefault(record["env"], [])
        if known and known[-1]["episode"] != record["episode"]:
            newest = known[-1]["episode"]
            known[:] = [other for other in known if other["episode"] == newest]
        known.append(record)
        self._changed = True

    def snapshot(self) -> Recent:
        """What is kept now, as a record that does not change."""
        if self._changed:
            self._shot = Recent(
                {kind: tuple(records) for kind, records in self._kinds.items()},
                {env: tuple(records) for env, records in self._episodes.items()},
                {env: tuple(records) for env, records in self._live.items()},
                {env: tuple(records) for env, records in self._decisions.items()},
            )
            self._changed = False
        return self._shot
