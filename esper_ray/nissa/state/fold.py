"""The fold of records into the state of a run.

A fold begins with the fields of a state, copies what it changes, and changes the copies in place: the state itself
stays as it is. ``RunState.advance`` is the pure function around it.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from esper_ray.leyline.records import Record
from esper_ray.nissa.state.anomaly import Anomaly
from esper_ray.nissa.state.episode import HOST_VALUES, EpisodeState
from esper_ray.nissa.state.episode_fold import EpisodeFold
from esper_ray.nissa.state.tallies import (
    BlueprintRecord,
    EpisodeOutcome,
    RoundTally,
    SeedReference,
    TallyFold,
    contribution_of,
)
from esper_ray.nissa.state.totals import TotalsFold

RECENT_OUTCOMES = 100
"""Newest episodes over which return and accuracy are correlated."""
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "run": ("run_started", "host", "run_finished", "status"),
    "rounds": ("round", "ppo_update", "control", "timing", "outcome"),
    "environments": ("episode_started", "env_epoch", "outcome", "environment_quarantined", "rollback", "preview"),
    "seeds": ("seed_transition", "attribution", "counterfactual"),
    "gates": ("gate", "veto"),
    "reward": ("env_epoch", "outcome"),
    "decisions": ("decision", "profile"),
    "anomalies": ("anomaly", "rollback"),
    "faults": ("fault", "environment_quarantined"),
    "integrity": ("malformed", "samples_lost"),
}
"""Sections of the state, with the kinds of items that change them."""
SECTIONS_OF: Mapping[str, tuple[str, ...]] = {
    kind: tuple(name for name, kinds in SECTIONS.items() if kind in kinds)
    for kind in {kind for kinds in SECTIONS.values() for kind in kinds}
}
"""Sections that an item changes, by its kind."""
_TALLIED = ("env_epoch", "outcome", "round")
"""Kinds of records that change the sums of the open round."""
_CLOCK = ("seq", "nonfinite", "round", "episode", "env")
FOLDED: Mapping[str, tuple[str, ...]] = {
    "env_epoch": (
        *_CLOCK,
        "step",
        "operation",
        "success",
        "log_prob",
        "reward",
        "entries.list.element.source",
        "entries.list.element.amount",
        *HOST_VALUES,
        "slots",
    ),
    "seed_transition": (*_CLOCK, "step", "slot", "seed", "blueprint", "from", "to"),
    "gate": (*_CLOCK, "gate", "passed", "checks.list.element.name", "checks.list.element.passed"),
    "counterfactual": _CLOCK,
}
"""Columns of the frequent kinds that a fold needs."""
_T = TypeVar("_T")


def best_of(first: _T | None, second: _T | None, value: Callable[[_T], float | None]) -> _T | None:
    """The one with the higher value, ``first`` of equals; one without a value is none."""
    if second is None or value(second) is None:
        return first
    if first is None:
        return second
    least, other = value(first), value(second)
    return second if least is None or (other is not None and other > least) else first


def seed_end(record: Record) -> str | None:
    """The end that a seed reaches with this transition: ``fossilized``, ``pruned`` or ``None``."""
    return record["to"].lower() if record["to"] in ("FOSSILIZED", "PRUNED") else None


def blueprint_name(record: Record) -> str:
    """Blueprint of a transition, ``unknown`` if the record does not say."""
    return record["blueprint"] or "unknown"


class Fold:
    """A state while records are added to it."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        """
        Args:
            state: fields of a ``RunState`` by name.
        """
        self._state = state
        self._count: int = state["count"]
        self._last: dict[str, int] = {}
        """Number of the newest of these records, by kind."""
        self._environments = dict(state["changed_environments"])
        self._totals = TotalsFold(state["totals"])
        self._episodes: dict[int, EpisodeFold] = {}
        """Episodes that these records have changed, by environment."""
        self._known: Mapping[int, EpisodeState] = state["episodes"]
        self._previews: dict[int, EpisodeState] = dict(state["previews"])
        self._tally = TallyFold(state["tally"])
        self._totals.round_rewards = self._tally.rewards
        self._rounds: list[Record] = []
        self._outcomes: list[EpisodeOutcome] = []
        self._controls: list[float] = []
        self._changes: dict[str, Any] = {}

    def add(self, record: Record) -> None:
        """Add a record.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: if it is not as its kind declares it. Then the fold cannot
                be used any more.
        """
        kind, env = record["kind"], record.get("env")
        self._count += 1
        self._last[kind] = self._count
        if env is not None:
            self._environments[env] = self._count
        self._totals.add(record)
        transition = _TRANSITIONS.get(kind)
        if transition is not None:
            transition(self, record)

    def changes(self) -> dict[str, Any]:
        """The changed fields of the state by name."""
        state, changed = self._state, dict(self._state["changed"])
        for kind, number in sorted(self._last.items(), key=lambda item: item[1]):
            changed.update(dict.fromkeys(SECTIONS_OF.get(kind, ()), number))
        changes = self._changes | {
            "count": self._count,
            "changed": changed,
            "changed_environments": self._environments,
            "totals": self._totals.state(),
        }
        if self._episodes:
            changes["episodes"] = {**self._known, **{env: fold.state() for env, fold in self._episodes.items()}}
            changes["previews"] = self._previews
        if not self._last.keys().isdisjoint(_TALLIED):
            changes["tally"] = self._tally.state()
        if self._rounds:
            changes["rounds"] = (*state["rounds"], *self._rounds)
        if self._outcomes:
            changes["recent_outcomes"] = (*state["recent_outcomes"], *self._outcomes)[-RECENT_OUTCOMES:]
        if self._controls:
            changes["control_accuracies_pp"] = (*state["control_accuracies_pp"], *self._controls)
        return changes

    def _field(self, name: str) -> Any:
        """Present value of a field that is replaced as a whole."""
        return self._changes[name] if name in self._changes else self._state[name]

    def _mapping(self, name: str) -> dict[Any, Any]:
        """A mapping of the state that may be changed in place."""
        if name not in self._changes:
            self._changes[name] = dict(self._state[name])
        mapping: dict[Any, Any] = self._changes[name]
        return mapping

    def set(self, **fields: Any) -> None:
        """Replace fields of the state."""
        self._changes |= fields

    def _episode(self, record: Record) -> EpisodeFold:
        """The episode of a record; a new one if its environment has none."""
        env, number = record["env"], record["episode"]
        fold = self._episodes.get(env)
        if fold is None and env in self._known:
            known = self._known[env]
            if known.episode == number:
                return self._put(env, known)
        if fold is not None and fold.episode == number:
            return fold
        succeeds = fold is not None or env in self._known
        return self._put(env, EpisodeState(env, number, record["round"], succeeds=succeeds))

    def _put(self, env: int, episode: EpisodeState) -> EpisodeFold:
        """This episode of the log, which replaces a preview that is not ahead."""
        fold = self._episodes[env] = EpisodeFold(episode)
        preview = self._previews.get(env)
        if preview is not None and preview.episode <= episode.episode:
            del self._previews[env]
        return fold

    def episode_started(self, record: Record) -> None:
        self._put(record["env"], EpisodeState.started(record))

    def control(self, record: Record) -> None:
        if record["val_accuracy_pp"] is not None:
            self._controls.append(record["val_accuracy_pp"])

    def seed_transition(self, record: Record) -> None:
        episode, end = self._episode(record), seed_end(record)
        if end is not None:
            name, blueprints = blueprint_name(record), self._mapping("blueprints")
            seed = SeedReference(record["env"], record["episode"], record["slot"], record["seed"])
            blueprint = blueprints.get(name, BlueprintRecord())
            blueprints[name] = blueprint.after_end(end, contribution_of(seed, episode))
        episode.transition(record)

    def rollback(self, record: Record) -> None:
        self._episode(record).rollback = record["reason"]

    def attribution(self, record: Record) -> None:
        self._episode(record).attribution = record

    def env_epoch(self, record: Record) -> None:
        self._episode(record).step(record)
        self._tally.step(record)

    def outcome(self, record: Record) -> None:
        names = ("round", "episode", "env", "total_reward", "val_accuracy_pp", "rollback")
        outcome = EpisodeOutcome(*(record[name] for name in names))
        self._tally.end(outcome)
        self._outcomes.append(outcome)
        self.set(best_episode=best_of(self._field("best_episode"), outcome, lambda other: other.val_accuracy_pp))
        self._episode(record).end(record)

    def round(self, record: Record) -> None:
        tally = self._tally.state()
        first = self._field("first_tally")
        best = best_of(self._field("best_round"), record, lambda row: row["val_accuracy_ratio"])
        self._rounds.append(record)
        self.set(best_round=best, first_tally=tally if first is None else first, last_tally=tally)
        self._tally = TallyFold(RoundTally())
        self._totals.round_rewards = self._tally.rewards

    def anomaly(self, record: Record) -> None:
        anomaly = Anomaly(record["type"], record["subject"], record["round"], record["value"], record["threshold"])
        anomalies, closed = self._mapping("anomalies"), self._field("closed_anomalies")
        anomalies.pop(anomaly.key, None)
        if record["open"]:
            anomalies[anomaly.key] = anomaly
            self.set(closed_anomalies=closed - {anomaly.key})
        else:
            self.set(closed_anomalies=closed | {anomaly.key})

    def latest(self, name: str, record: Record, value: Any) -> None:
        """Set the value of the record's environment in a mapping."""
        self._mapping(name)[record["env"]] = value


_TRANSITIONS: Mapping[str, Callable[[Fold, Record], None]] = {
    "run_started": lambda fold, record: fold.set(status="training", config_sha256=record["config_sha256"]),
    "host": lambda fold, record: fold.set(host=record),
    "run_finished": lambda fold, record: fold.set(status="finished", policy_sha256=record["policy_sha256"]),
    "episode_started": Fold.episode_started,
    "control": Fold.control,
    "seed_transition": Fold.seed_transition,
    "rollback": Fold.rollback,
    "env_epoch": Fold.env_epoch,
    "attribution": Fold.attribution,
    "outcome": Fold.outcome,
    "environment_quarantined": lambda fold, record: fold.latest("quarantined", record, record["error"]),
    "ppo_update": lambda fold, record: fold.set(update=record),
    "round": Fold.round,
    "anomaly": Fold.anomaly,
    "decision": lambda fold, record: fold.latest("decisions", record, record),
    "profile": lambda fold, record: fold.latest("profiles", record, record),
}
"""Changes of the state by kind of record; other kinds are counted only."""
