"""State of a run as a pure function of its records.

``RunState().apply(record)`` is the state after one event, ``RunState.of(run.events())`` that after a whole log. There
is no clock, no output and no metric name in here: equal records give equal states, however they are split into
batches. States are frozen, and what they hold is never changed in place.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np

from esper_ray.leyline.errors import Fault
from esper_ray.leyline.records import Record
from esper_ray.nissa.state.episode import EpisodeState
from esper_ray.nissa.state.totals import Totals

ROLLING_ROUNDS = 10
"""Rounds of the rolling mean."""
RECENT_OUTCOMES = 100
"""Newest episodes over which return and accuracy are correlated."""
RECENT_FAULTS = 100
"""Newest faults that are kept; ``Totals.faults`` counts all."""
CONTRIBUTION_WEIGHT = 0.2
"""Weight of the newest contribution in the moving average of its blueprint."""


@dataclass(frozen=True, slots=True)
class EpisodeOutcome:
    """Result of one finished episode; a number that was not finite is ``None``."""

    round: int
    episode: int
    env: int
    total_reward: float | None
    val_accuracy_pp: float | None
    rolled_back: bool


@dataclass(frozen=True, slots=True)
class RoundTally:
    """Sums over the steps and episodes of one round."""

    steps: int = 0
    steps_with_choice: int = 0
    """Steps with more than one legal action."""
    reward_by_source: Mapping[str, float] = field(default_factory=dict)
    """Of every source that the run has paid; 0 for those that this round has not paid.

    Amounts that were not finite are left out; ``Totals.nonfinite`` counts them.
    """
    outcomes: tuple[EpisodeOutcome, ...] = ()

    def after_step(self, record: Record) -> "RoundTally":
        """The sums after this ``env_epoch``."""
        rewards = dict(self.reward_by_source)
        for entry in record["entries"]:
            if entry["amount"] is None:
                continue
            rewards[entry["source"]] = rewards.get(entry["source"], 0) + entry["amount"]
        choices = self.steps_with_choice + (record["log_prob"] != 0.0)
        return RoundTally(self.steps + 1, choices, rewards, self.outcomes)

    def successor(self) -> "RoundTally":
        """The empty tally of the next round."""
        return RoundTally(reward_by_source=dict.fromkeys(self.reward_by_source, 0.0))


@dataclass(frozen=True, slots=True)
class BlueprintRecord:
    """Ended seeds of one blueprint."""

    fossilized: int = 0
    pruned: int = 0
    contribution_pp: float | None = None
    """Moving average of the contributions at fossilization; ``None`` if none was measured."""

    def after_end(self, end: str, contribution_pp: float | None) -> "BlueprintRecord":
        """The record after one more seed has been ``fossilized`` or ``pruned``."""
        if end == "pruned":
            return replace(self, pruned=self.pruned + 1)
        mean = self.contribution_pp
        if contribution_pp is not None:
            before = contribution_pp if mean is None else mean
            mean = before + CONTRIBUTION_WEIGHT * (contribution_pp - before)
        return replace(self, fossilized=self.fossilized + 1, contribution_pp=mean)


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An open anomaly."""

    type: str
    subject: str | None
    since_round: int
    value: float | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class RunState:
    """State of one run after some of its records."""

    status: str | None = None
    """One of ``catalogue.metrics.STATES``; ``None`` before the first event."""
    config_sha256: str | None = None
    policy_sha256: str | None = None
    """Digest of the final weights; ``None`` unless the run is finished."""
    episodes: Mapping[int, EpisodeState] = field(default_factory=dict)
    """Newest episode in the event log, by environment."""
    previews: Mapping[int, EpisodeState] = field(default_factory=dict)
    """Episodes in play that the event log does not hold yet, by environment."""
    quarantined: Mapping[int, str] = field(default_factory=dict)
    """Last error of each quarantined environment."""
    rounds: tuple[Record, ...] = ()
    """Records of kind ``round``, in order."""
    tally: RoundTally = field(default_factory=RoundTally)
    """Sums over the round in play."""
    last_tally: RoundTally | None = None
    """Sums over the newest finished round."""
    recent_outcomes: tuple[EpisodeOutcome, ...] = ()
    best_episode: EpisodeOutcome | None = None
    """The finished episode with the highest validation accuracy, the earliest of equals."""
    best_round: Record | None = None
    """The round with the highest mean validation accuracy, the earliest of equals."""
    control_accuracies_pp: tuple[float, ...] = ()
    """Final validation accuracies without growth, in the order of their episodes."""
    blueprints: Mapping[str, BlueprintRecord] = field(default_factory=dict)
    update: Record | None = None
    """Newest record of kind ``ppo_update``."""
    anomalies: Mapping[tuple[str, str | None], Anomaly] = field(default_factory=dict)
    """Open anomalies by (type, subject)."""
    decisions: Mapping[int, Record] = field(default_factory=dict)
    """Newest sample of kind ``decision``, by environment."""
    profiles: Mapping[int, Record] = field(default_factory=dict)
    """Newest sample of kind ``profile``, by environment."""
    timings: tuple[Mapping[str, float], ...] = ()
    """Lines of ``timings.csv``, in order."""
    faults: tuple[Fault, ...] = ()
    totals: Totals = field(default_factory=Totals)

    @classmethod
    def of(
        cls, events: Iterable[Record], timings: Iterable[Mapping[str, float]] = (), faults: Iterable[Fault] = ()
    ) -> "RunState":
        """The state after all of ``events``.

        Args:
            events: of one run, from its beginning; those of one environment in their order.
            timings: lines of ``timings.csv``.
            faults: lines of ``faults.jsonl``.
        """
        state = cls()
        for record in events:
            state = state.apply(record)
        for row in timings:
            state = state.with_timing(row)
        for fault in faults:
            state = state.with_fault(fault)
        return state

    def apply(self, record: Record) -> "RunState":
        """The state after ``record``, an event or a sample. Records of one environment must come in their order."""
        transition = _TRANSITIONS.get(record["kind"])
        changes = {} if transition is None else transition(self, record)
        return replace(self, totals=self.totals.apply(record), **changes)

    def preview(self, record: Record) -> "RunState":
        """The state after an ``env_epoch`` of an episode in play. Nothing is counted; a stale record is dropped."""
        if self.is_stale(record):
            return self
        env = record["env"]
        episode = self.previews.get(env)
        if episode is None or episode.episode != record["episode"]:
            episode = EpisodeState(env, record["episode"], record["round"])
        return replace(self, previews={**self.previews, env: episode.after_step(record)})

    def is_stale(self, record: Record) -> bool:
        """Whether the episode of this preview is logged, or a later one has started."""
        logged, previewed = self.episodes.get(record["env"]), self.previews.get(record["env"])
        if logged is not None and logged.episode >= record["episode"]:
            return True
        return previewed is not None and previewed.episode > record["episode"]

    def with_status(self, status: str) -> "RunState":
        """The state with another status, one of ``catalogue.metrics.STATES``."""
        return replace(self, status=status)

    def with_timing(self, row: Mapping[str, float]) -> "RunState":
        """The state after one more line of ``timings.csv``."""
        return replace(self, timings=(*self.timings, row))

    def with_fault(self, fault: Fault) -> "RunState":
        """The state after one more fault."""
        faults = (*self.faults, fault)[-RECENT_FAULTS:]
        return replace(self, faults=faults, totals=self.totals.with_fault(fault.kind))

    def episode_of(self, record: Record) -> EpisodeState:
        """The logged episode of a record; a new one if its environment has none."""
        env = record["env"]
        return self.episodes.get(env) or EpisodeState(env, record["episode"], record["round"])

    @property
    def environments(self) -> Mapping[int, EpisodeState]:
        """Newest episode of each environment, those in play included."""
        return {**self.episodes, **self.previews}

    @property
    def control_accuracy_ratio(self) -> float | None:
        """Mean final accuracy without growth; ``None`` if it was not measured."""
        return _mean(pp / 100.0 for pp in self.control_accuracies_pp)

    @property
    def rolling_accuracy_ratio(self) -> float | None:
        """Mean accuracy of the newest ``ROLLING_ROUNDS`` rounds; ``None`` before the first."""
        accuracies = [row["val_accuracy_ratio"] for row in self.rounds[-ROLLING_ROUNDS:]]
        return _mean(accuracy for accuracy in accuracies if accuracy is not None)

    @property
    def reward_accuracy_correlation(self) -> float | None:
        """Pearson correlation of return and accuracy over the recent episodes.

        ``None`` for fewer than three episodes, or if one of the two does not vary.
        """
        pairs = [(outcome.total_reward, outcome.val_accuracy_pp) for outcome in self.recent_outcomes]
        measured = [pair for pair in pairs if None not in pair]
        if len(measured) < 3:
            return None
        returns, accuracies = np.array(measured).T
        if not returns.std() > 0 or not accuracies.std() > 0:
            return None
        return float(np.corrcoef(returns, accuracies)[0, 1])

    def open_anomalies(self, anomaly_type: str) -> int:
        """Number of open anomalies of one type."""
        return sum(anomaly.type == anomaly_type for anomaly in self.anomalies.values())


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return fmean(numbers) if numbers else None


def _exceeds(value: float | None, best: float | None) -> bool:
    return value is not None and (best is None or value > best)


def seed_end(record: Record) -> str | None:
    """The end that a seed reaches with this transition: ``fossilized``, ``pruned`` or ``None``."""
    return record["to"].lower() if record["to"] in ("FOSSILIZED", "PRUNED") else None


def blueprint_name(record: Record) -> str:
    """Blueprint of a transition, ``unknown`` if the record does not say."""
    return record["blueprint"] or "unknown"


def _with_episode(state: RunState, episode: EpisodeState) -> dict[str, Any]:
    """This newest episode of the log, which replaces a preview that is not ahead of it."""
    changes: dict[str, Any] = {"episodes": {**state.episodes, episode.env: episode}}
    preview = state.previews.get(episode.env)
    if preview is not None and preview.episode <= episode.episode:
        changes["previews"] = {env: other for env, other in state.previews.items() if env != episode.env}
    return changes


def _seed_transition(state: RunState, record: Record) -> dict[str, Any]:
    episode, end, blueprints = state.episode_of(record), seed_end(record), state.blueprints
    if end is not None:
        slot, name = episode.seed_slot(record), blueprint_name(record)
        contribution = None if slot is None else slot.measured_contribution_pp
        blueprint = blueprints.get(name, BlueprintRecord()).after_end(end, contribution)
        blueprints = {**blueprints, name: blueprint}
    return {"blueprints": blueprints, **_with_episode(state, episode.after_transition(record))}


def _env_epoch(state: RunState, record: Record) -> dict[str, Any]:
    episode = state.episode_of(record).after_step(record)
    return {"tally": state.tally.after_step(record), **_with_episode(state, episode)}


def _outcome(state: RunState, record: Record) -> dict[str, Any]:
    names = ("round", "episode", "env", "total_reward", "val_accuracy_pp", "rollback")
    outcome = EpisodeOutcome(*(record[name] for name in names))
    best = state.best_episode
    return {
        "tally": replace(state.tally, outcomes=(*state.tally.outcomes, outcome)),
        "recent_outcomes": (*state.recent_outcomes, outcome)[-RECENT_OUTCOMES:],
        "best_episode": (
            outcome if _exceeds(outcome.val_accuracy_pp, None if best is None else best.val_accuracy_pp) else best
        ),
        **_with_episode(state, state.episode_of(record).after_end(record)),
    }


def _round(state: RunState, record: Record) -> dict[str, Any]:
    tally, best, name = state.tally, state.best_round, "val_accuracy_ratio"
    if _exceeds(record[name], None if best is None else best[name]):
        best = record
    rounds = (*state.rounds, record)
    return {"rounds": rounds, "best_round": best, "last_tally": tally, "tally": tally.successor()}


def _anomaly(state: RunState, record: Record) -> dict[str, Any]:
    key = (record["type"], record["subject"])
    anomalies = {other: anomaly for other, anomaly in state.anomalies.items() if other != key}
    if record["open"]:
        anomalies[key] = Anomaly(*key, record["round"], record["value"], record["threshold"])
    return {"anomalies": anomalies}


def _control(state: RunState, record: Record) -> dict[str, Any]:
    accuracy = record["val_accuracy_pp"]
    return {} if accuracy is None else {"control_accuracies_pp": (*state.control_accuracies_pp, accuracy)}


_TRANSITIONS: Mapping[str, Callable[[RunState, Record], dict[str, Any]]] = {
    "run_started": lambda state, record: {"status": "training", "config_sha256": record["config_sha256"]},
    "run_finished": lambda state, record: {"status": "finished", "policy_sha256": record["policy_sha256"]},
    "episode_started": lambda state, record: _with_episode(state, EpisodeState.started(record)),
    "control": _control,
    "seed_transition": _seed_transition,
    "rollback": lambda state, record: _with_episode(
        state, replace(state.episode_of(record), rollback=record["reason"])
    ),
    "env_epoch": _env_epoch,
    "attribution": lambda state, record: _with_episode(state, replace(state.episode_of(record), attribution=record)),
    "outcome": _outcome,
    "environment_quarantined": lambda state, record: {
        "quarantined": {**state.quarantined, record["env"]: record["error"]}
    },
    "ppo_update": lambda state, record: {"update": record},
    "round": _round,
    "anomaly": _anomaly,
    "decision": lambda state, record: {"decisions": {**state.decisions, record["env"]: record}},
    "profile": lambda state, record: {"profiles": {**state.profiles, record["env"]: record}},
}
"""Changed fields of the state by kind of record; other kinds are counted only."""
