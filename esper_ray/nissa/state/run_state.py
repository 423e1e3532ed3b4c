"""State of a run as a pure function of its records.

``RunState().apply(record)`` is the state after one event, ``advance`` after many, ``RunState.of`` after a log. There
is no clock, no output and no metric name in here: equal records give equal states, however they are split into
batches. States are frozen, and what they hold is never changed in place.

A state may be folded from any part of a log. ``RunState.of(x).merged(RunState.of(y))`` is ``RunState.of(x + y)``, sums
to rounding errors. What a part cannot know, because it was recorded before it, is open until it is merged.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Annotated, Any

import numpy as np
from pydantic import PlainSerializer

from esper_ray.leyline.errors import Fault
from esper_ray.leyline.records import Record
from esper_ray.nissa.state.anomaly import Anomaly
from esper_ray.nissa.state.episode import EpisodeState
from esper_ray.nissa.state.episode_fold import EpisodeFold
from esper_ray.nissa.state.fold import RECENT_OUTCOMES, SECTIONS_OF, Fold, best_of
from esper_ray.nissa.state.measures import ROLLING_ROUNDS, rolling_mean
from esper_ray.nissa.state.tallies import BlueprintRecord, EpisodeOutcome, RoundTally
from esper_ray.nissa.state.totals import Totals

RECENT_FAULTS = 100
"""Newest faults that are kept; ``Totals.faults`` counts all."""


@dataclass(frozen=True, slots=True)
class RunState:
    """State of one run after some of its records."""

    count: int = 0
    """Number of items that this state was folded from."""
    changed: Mapping[str, int] = field(default_factory=dict)
    """Number of the item that changed it last, by section, see ``fold.SECTIONS``."""
    changed_environments: Mapping[int, int] = field(default_factory=dict)
    """The same by environment."""
    status: str | None = None
    """One of ``catalogue.metrics.STATES``; ``None`` before the first event."""
    config_sha256: str | None = None
    policy_sha256: str | None = None
    """Digest of the final weights; ``None`` unless the run is finished."""
    host: Record | None = None
    """Record of kind ``host``; ``None`` if the version of the run did not record it."""
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
    first_tally: RoundTally | None = None
    """Sums over the records before the end of the first finished round."""
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
    anomalies: Mapping[str, Anomaly] = field(default_factory=dict)
    """Open anomalies by their key."""
    closed_anomalies: Annotated[frozenset[str], PlainSerializer(sorted)] = frozenset()
    """Keys of anomalies of which the newest record is their end."""
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
        state = cls().advance(events)
        for row in timings:
            state = state.with_timing(row)
        for fault in faults:
            state = state.with_fault(fault)
        return state

    def apply(self, record: Record) -> "RunState":
        """The state after ``record``, an event or a sample. Records of one environment must come in their order."""
        return self.advance((record,))

    def advance(self, records: Iterable[Record]) -> "RunState":
        """The state after ``records``, which equals that of applying them one by one.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: if a record is not as its kind declares it.
        """
        fold = Fold({name: getattr(self, name) for name in RunState.__slots__})
        for record in records:
            fold.add(record)
        return replace(self, **fold.changes())

    def preview(self, record: Record) -> "RunState":
        """The state after an ``env_epoch`` of an episode in play. Nothing is counted; a stale record is dropped."""
        if self.is_stale(record):
            return self
        env = record["env"]
        episode = self.previews.get(env)
        if episode is None or episode.episode != record["episode"]:
            episode = EpisodeState(env, record["episode"], record["round"])
        fold = EpisodeFold(episode)
        fold.step(record)
        return self._counted("preview", env, previews={**self.previews, env: fold.state()})

    def without_previews(self) -> "RunState":
        """The state without episodes in play."""
        state = self
        for env in self.previews:
            state = state._counted("preview", env, previews={})
        return state

    def is_stale(self, record: Record) -> bool:
        """Whether the episode of this preview is logged, or a later one has started."""
        logged, previewed = self.episodes.get(record["env"]), self.previews.get(record["env"])
        if logged is not None and logged.episode >= record["episode"]:
            return True
        return previewed is not None and previewed.episode > record["episode"]

    def with_status(self, status: str) -> "RunState":
        """The state with another status, one of ``catalogue.metrics.STATES``."""
        return self._counted("status", status=status)

    def with_timing(self, row: Mapping[str, float]) -> "RunState":
        """The state after one more line of ``timings.csv``."""
        return self._counted("timing", timings=(*self.timings, row))

    def with_fault(self, fault: Fault) -> "RunState":
        """The state after one more fault."""
        faults = (*self.faults, fault)[-RECENT_FAULTS:]
        return self._counted("fault", faults=faults, totals=self.totals.with_fault(fault.kind))

    def _counted(self, kind: str, env: int | None = None, **changes: Any) -> "RunState":
        """The state after one more item of ``kind`` with its ``changes``."""
        number = self.count + 1
        changed = {**self.changed, **dict.fromkeys(SECTIONS_OF.get(kind, ()), number)}
        environments = self.changed_environments if env is None else {**self.changed_environments, env: number}
        return replace(self, **changes, count=number, changed=changed, changed_environments=environments)

    def merged(self, later: "RunState") -> "RunState":
        """The state of the items of this one and of ``later`` ones."""
        episodes = {**self.episodes, **{env: self._merged_episode(ep) for env, ep in later.episodes.items()}}
        tally, last_tally, first_tally = self._merged_tallies(later)
        blueprints = {
            name: self.blueprints.get(name, BlueprintRecord()).merged(record, self.episodes)
            for name, record in later.blueprints.items()
        }
        open_anomalies = {k: a for k, a in self.anomalies.items() if k not in later.closed_anomalies}
        return RunState(
            count=self.count + later.count,
            changed={**self.changed, **{name: self.count + n for name, n in later.changed.items()}},
            changed_environments={
                **self.changed_environments,
                **{env: self.count + n for env, n in later.changed_environments.items()},
            },
            status=later.status or self.status,
            config_sha256=later.config_sha256 or self.config_sha256,
            policy_sha256=later.policy_sha256 or self.policy_sha256,
            host=later.host or self.host,
            episodes=episodes,
            previews=_unlogged({**self.previews, **later.previews}, episodes),
            quarantined={**self.quarantined, **later.quarantined},
            rounds=self.rounds + later.rounds,
            tally=tally,
            last_tally=last_tally,
            first_tally=first_tally,
            recent_outcomes=(self.recent_outcomes + later.recent_outcomes)[-RECENT_OUTCOMES:],
            best_episode=best_of(self.best_episode, later.best_episode, lambda outcome: outcome.val_accuracy_pp),
            best_round=best_of(self.best_round, later.best_round, lambda row: row["val_accuracy_ratio"]),
            control_accuracies_pp=self.control_accuracies_pp + later.control_accuracies_pp,
            blueprints={**self.blueprints, **blueprints},
            update=later.update or self.update,
            anomalies={**open_anomalies, **later.anomalies},
            closed_anomalies=self.closed_anomalies.difference(later.anomalies) | later.closed_anomalies,
            decisions={**self.decisions, **later.decisions},
            profiles={**self.profiles, **later.profiles},
            timings=self.timings + later.timings,
            faults=(self.faults + later.faults)[-RECENT_FAULTS:],
            totals=self.totals.merged(later.totals),
        )

    def _merged_episode(self, later: EpisodeState) -> EpisodeState:
        earlier = self.episodes.get(later.env)
        return later if earlier is None else earlier.merged(later)

    def _merged_tallies(self, later: "RunState") -> tuple[RoundTally, RoundTally | None, RoundTally | None]:
        """The open tally, the last one and the first one."""
        if later.first_tally is None:
            return self.tally.merged(later.tally), self.last_tally, self.first_tally
        first = self.tally.merged(later.first_tally)
        last = first if len(later.rounds) == 1 else later.last_tally
        return later.tally, last, first if self.first_tally is None else self.first_tally

    def episode_of(self, record: Record) -> EpisodeState:
        """The logged episode of a record; a new one if its environment has none."""
        env, known = record["env"], self.episodes.get(record["env"])
        if known is not None and known.episode == record["episode"]:
            return known
        return EpisodeState(env, record["episode"], record["round"], succeeds=known is not None)

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
        return rolling_mean([row["val_accuracy_ratio"] for row in self.rounds[-ROLLING_ROUNDS:]])

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


def _unlogged(previews: Mapping[int, EpisodeState], episodes: Mapping[int, EpisodeState]) -> dict[int, EpisodeState]:
    """The previews whose episodes are newer than those of the log."""
    logged = {env: episode.episode for env, episode in episodes.items()}
    return {env: preview for env, preview in previews.items() if preview.episode > logged.get(env, -1)}
