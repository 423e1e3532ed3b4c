"""One followed run as sections with versions. A client is sent what is new to it alone."""

import json
import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from esper_ray.karn.following import ENDED, RunFollower
from esper_ray.karn.overwatch.runs import sections
from esper_ray.karn.overwatch.runs.history import Collectors, RoundHistory
from esper_ray.karn.overwatch.runs.index import IndexedPlace
from esper_ray.karn.overwatch.runs.items import FoldedShot, NewestItems
from esper_ray.karn.overwatch.runs.stored import Copies
from esper_ray.karn.recent import Recent, RecentRecords
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.regular import read_regular
from esper_ray.nissa.log.reader import INTEGRITY
from esper_ray.nissa.metrics.publisher import head_choices
from esper_ray.nissa.runs.run_directory import RunDirectory

AGE_SECONDS = 1.0
"""Shortest time between two changes of the section ``age``."""
NOTHING = "null"


def json_text(tree: Any) -> str:
    """``tree`` as JSON; numbers that are not finite are null."""
    try:
        return json.dumps(tree, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(tree), allow_nan=False, separators=(",", ":"))


def _finite(tree: Any) -> Any:
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, Mapping):
        return {name: _finite(value) for name, value in tree.items()}
    return [_finite(value) for value in tree] if isinstance(tree, list | tuple) else tree


@dataclass(frozen=True, slots=True)
class Versioned:
    """A part of a run as JSON, with the version in which it changed last."""

    version: int
    text: str


@dataclass(frozen=True, slots=True)
class RunShot:
    """A run at one moment. It does not change."""

    version: int
    sections: Mapping[str, Versioned] = field(default_factory=dict)
    environments: Mapping[int, Versioned] = field(default_factory=dict)
    """Environments; the text of one that is gone is ``null``."""
    complete: bool = False
    """Whether the log has been read to its end."""

    def text(self, since: int = 0) -> str:
        """Everything that is newer than version ``since``, as one object of JSON.

        A version that this run has not reached yet is that of another server: everything is sent.
        """
        if since > self.version:
            since = 0
        parts = [f'"{name}":{part.text}' for name, part in self.sections.items() if part.version > since]
        newer = [
            f'"{env}":{part.text}'
            for env, part in self.environments.items()
            if part.version > since and (since or part.text != NOTHING)
        ]
        if newer or not since:
            parts.append(f'"environments":{{{",".join(newer)}}}')
        return f'{{"version":{self.version},"sections":{{{",".join(parts)}}}}}'


class FollowedRun:
    """Follower of a run whose newest shot can be read from any thread. It is polled from one thread."""

    def __init__(
        self,
        place: IndexedPlace,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        copies: Copies | None = None,
    ) -> None:
        """
        Args:
            clock: seconds of this process, for ages.
            now: Unix time, from which versions are made: they grow over restarts of the server.
            copies: the storages of the server, from which a copy is fetched.

        Raises:
            UserError: if it is not a run directory any more.
        """
        self.place, self._clock, self._now = place, clock, now
        self._copies = copies or Copies()
        self.run = RunDirectory.open(place.path)
        self.items = NewestItems(start=int(now() * 1000.0))
        """The newest items, for clients that fold them."""
        self.folded = FoldedShot()
        """State and number of items, as of the newest look."""
        self._records, self._history, self._rounds = RecentRecords(), RoundHistory(), sections.RoundSection()
        self._follower = RunFollower(self.run, clock, Collectors(self._records, self._history, self.items))
        self.recent = Recent()
        """The newest records, as of the newest look."""
        self._choices, self._config = self._configuration()
        self._keys: dict[str, Hashable] = {}
        self._environment_keys: dict[int, Hashable] = {}
        self._aged = -math.inf
        self._failure: str | None = None
        self.shot = RunShot(self._next_version(0))
        """The newest shot."""
        self._follower.look()
        self._publish(complete=False)

    def _configuration(self) -> tuple[dict[str, int], dict[str, Any]]:
        """Choices by head, and differences from the preset. Both are empty for the configuration of another version."""
        try:
            config = self.run.config()
            return head_choices(config), sections.preset_differences({"config": config.model_dump(mode="json")})
        except UserError:
            return {}, {}

    @property
    def is_over(self) -> bool:
        """Whether the run has ended by itself, or cannot be shown."""
        return self._failure is not None or self._follower.state.status in ENDED

    @property
    def follower(self) -> RunFollower:
        """The follower, of which the state may be read at any time."""
        return self._follower

    @property
    def failure(self) -> str | None:
        """Why the run cannot be shown."""
        return self._failure

    @property
    def choices(self) -> Mapping[str, int]:
        """Greatest number of legal choices, by head."""
        return self._choices

    def poll(self) -> bool:
        """Read what is new and publish it; whether anything that is shown has changed."""
        if self._failure is None:
            self._copies.fetch(self.place.path, now=not self.shot.complete)
            try:
                self._follower.poll()
            except UserError as error:
                self._failure = str(error)
            self.recent = self._records.snapshot()
            self.folded = FoldedShot(self.items.newest, self._follower.state, self.recent)
        return self._publish(complete=True)

    def complete_history(self) -> bool:
        """Read what the follower did not give of compacted parts. Whether anything that is shown has changed."""
        if self._failure is not None or not self._history.is_partial:
            return False
        try:
            self._history.read(self.run.event_log)
        except (UserError, OSError, ValueError):
            return False  # the follower names what is damaged
        return self._publish(complete=True)

    def fail(self, reason: str) -> bool:
        """Show ``reason`` in place of the run. Whether anything that is shown has changed."""
        self._failure = reason
        return self._publish(complete=True)

    def _next_version(self, version: int) -> int:
        return max(version + 1, int(self._now() * 1000.0))

    def _publish(self, *, complete: bool) -> bool:
        """Make a new shot if something differs from the newest one."""
        version = self._next_version(self.shot.version)
        parts, environments = dict(self.shot.sections), dict(self.shot.environments)
        changed = complete != self.shot.complete
        for name, (key, section) in self._sections(complete).items():
            if name in parts and self._keys.get(name) == key:
                continue
            self._keys[name] = key
            text = json_text(section())
            if name not in parts or parts[name].text != text:
                parts[name], changed = Versioned(version, text), True
        changed |= self._update_environments(environments, version)
        if changed:
            self.shot = RunShot(version, parts, environments, complete)
        return changed

    def _sections(self, complete: bool) -> dict[str, tuple[Hashable, Callable[[], Any]]]:
        """Every section with a key that differs when the section may, and its function."""
        follower = self._follower
        state, sight, changed = follower.state, follower.sight, follower.state.changed
        notes = self._copies.notes(self.place.path)
        anew, pulse = len(follower.notes), sight.pulse or {}
        updated = (anew, follower.manifest.get("updated"))
        always = object()
        found: dict[str, tuple[Hashable, Callable[[], Any]]] = {
            "facts": (
                (updated, complete, self._failure, state.status, pulse.get("pid"), str(pulse.get("links"))),
                lambda: {**self._facts(), "reading": not complete, "failure": self._failure},
            ),
            "answers": (always, lambda: sections.answer_section(state, sight)),
            "rounds": (
                (
                    *(anew, self._history.revision, self._history.marked),
                    *(len(state.rounds), len(state.control_accuracies_pp)),
                ),
                lambda: self._rounds.section(state, self._history, self._choices),
            ),
            "reward": ((anew, changed.get("reward")), lambda: sections.reward(state)),
            "gates": ((anew, changed.get("gates")), lambda: sections.gates(state)),
            "blueprints": ((anew, changed.get("seeds")), lambda: sections.blueprints(state)),
            "anomalies": ((anew, changed.get("anomalies")), lambda: sections.anomalies(state)),
            "faults": ((anew, changed.get("faults")), lambda: sections.faults(state)),
            "notable": (
                (anew, *(changed.get(name) for name in ("run", "seeds", "anomalies", "faults", "integrity"))),
                lambda: sections.notable(self.recent, self.place.url),
            ),
            "integrity": (
                (anew, changed.get("integrity"), len(follower.problems), follower.live_is_full, state.status, notes),
                lambda: sections.integrity(follower, self._counts(), notes),
            ),
        }
        if self._clock() - self._aged >= AGE_SECONDS:
            self._aged = self._clock()
            found["age"] = (always, lambda: sections.age(state, sight))
        return found

    def _facts(self) -> dict[str, Any]:
        tree = sections.facts(self._follower, self.place.id, self.place.shown, self._config, self._choices)
        tree["slots"] = sections.slots_of(tree, list(self._follower.state.environments.values()))
        return tree

    def _counts(self) -> Mapping[str, Any] | None:
        """Counts of a finished run; ``None`` if there are none."""
        try:
            tree = json.loads(read_regular(self.run.path / INTEGRITY))
        except (OSError, ValueError):
            return None
        return tree if isinstance(tree, dict) else None

    def _update_environments(self, parts: dict[int, Versioned], version: int) -> bool:
        """Renew the environments that have changed; whether there are any."""
        state, anew, changed = self._follower.state, len(self._follower.notes), False
        present = state.environments
        for env, episode in present.items():
            key = (anew, state.changed_environments.get(env))
            if env in parts and self._environment_keys.get(env) == key:
                continue
            self._environment_keys[env] = key
            tree = sections.environment(episode, live=env in state.previews, quarantined=state.quarantined.get(env))
            text = json_text(tree)
            if env not in parts or parts[env].text != text:
                parts[env], changed = Versioned(version, text), True
        for env in parts.keys() - present.keys():
            if parts[env].text != NOTHING:
                parts[env], changed = Versioned(version, NOTHING), True
        return changed
