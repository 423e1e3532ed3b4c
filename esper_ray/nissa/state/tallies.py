"""Tallies of rounds and blueprints, which are part of the state of a run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from esper_ray.leyline.records import Record


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
    """Of the sources that this round has paid. Amounts that were not finite are left out."""
    outcomes: tuple[EpisodeOutcome, ...] = ()

    def merged(self, later: "RoundTally") -> "RoundTally":
        """The sums over these records and ``later`` ones."""
        rewards = dict(self.reward_by_source)
        for source, amount in later.reward_by_source.items():
            rewards[source] = rewards.get(source, 0.0) + amount
        choices = self.steps_with_choice + later.steps_with_choice
        return RoundTally(self.steps + later.steps, choices, rewards, self.outcomes + later.outcomes)


class TallyFold:
    """The sums over a round while its records are folded."""

    __slots__ = ("_outcomes", "_steps", "_steps_with_choice", "rewards")

    def __init__(self, before: RoundTally) -> None:
        self._steps, self._steps_with_choice = before.steps, before.steps_with_choice
        self._outcomes = list(before.outcomes)
        self.rewards: dict[str, float] = dict(before.reward_by_source)
        """By source; the counts of the run add to it, so that entries are read once."""

    def step(self, record: Record) -> None:
        """Add an ``env_epoch``."""
        self._steps += 1
        self._steps_with_choice += record["log_prob"] != 0.0

    def end(self, outcome: EpisodeOutcome) -> None:
        """Add a finished episode."""
        self._outcomes.append(outcome)

    def state(self) -> RoundTally:
        """The sums."""
        return RoundTally(self._steps, self._steps_with_choice, dict(self.rewards), tuple(self._outcomes))


class SlotHistory(Protocol):
    """What is known of the seed in a slot."""

    @property
    def seed(self) -> str | None:
        """Its name."""

    @property
    def measured_contribution_pp(self) -> float | None:
        """The newest contribution that was measured."""

    @property
    def germinated_step(self) -> int | None:
        """Step of germination; ``None`` if that event is not in the records."""


class EpisodeHistory(Protocol):
    """What is known of the slots of an episode."""

    @property
    def episode(self) -> int:
        """Its number."""

    @property
    def slots(self) -> Mapping[str, SlotHistory]:
        """Occupied slots by name."""

    @property
    def begun(self) -> bool:
        """Whether its first record is known."""

    @property
    def succeeds(self) -> bool:
        """Whether an earlier episode of the environment is known."""

    @property
    def touched(self) -> frozenset[str]:
        """Slots that transitions changed before any step that is known."""

    @property
    def is_complete(self) -> bool:
        """Whether no earlier record could hold more about its slots."""


@dataclass(frozen=True, slots=True)
class SeedReference:
    """A seed whose contribution was measured, if at all, before the records of a state."""

    env: int
    episode: int
    slot: str
    seed: str | None


@dataclass(frozen=True, slots=True)
class BlueprintRecord:
    """Ended seeds of one blueprint."""

    fossilized: int = 0
    pruned: int = 0
    contribution_sum_pp: float = 0.0
    """Sum of the measured contributions at fossilization."""
    contribution_squares_pp2: float = 0.0
    """Sum of their squares."""
    measured: int = 0
    """Number of these contributions."""
    unknown: tuple[SeedReference, ...] = ()
    """Fossilized seeds whose contribution earlier records may hold."""

    @property
    def contribution_pp(self) -> float | None:
        """Mean of the contributions at fossilization; ``None`` if none was measured."""
        return self.contribution_sum_pp / self.measured if self.measured else None

    @property
    def contribution_error_pp(self) -> float | None:
        """Standard error of that mean; ``None`` below two contributions."""
        if self.measured < 2:
            return None
        squares = self.contribution_squares_pp2 - self.contribution_sum_pp**2 / self.measured
        return math.sqrt(max(0.0, squares) / (self.measured - 1) / self.measured)

    def after_end(self, end: str, contribution: float | SeedReference | None) -> "BlueprintRecord":
        """The record after one more seed has been ``fossilized`` or ``pruned``."""
        if end == "pruned":
            return replace(self, pruned=self.pruned + 1)
        record = replace(self, fossilized=self.fossilized + 1)
        if isinstance(contribution, SeedReference):
            return replace(record, unknown=(*self.unknown, contribution))
        return record if contribution is None else record.measured_as(contribution)

    def measured_as(self, contribution_pp: float) -> "BlueprintRecord":
        """The record with one more contribution."""
        return replace(
            self,
            contribution_sum_pp=self.contribution_sum_pp + contribution_pp,
            contribution_squares_pp2=self.contribution_squares_pp2 + contribution_pp**2,
            measured=self.measured + 1,
        )

    def merged(self, later: "BlueprintRecord", episodes: Mapping[int, EpisodeHistory]) -> "BlueprintRecord":
        """The record of these seeds and of ``later`` ones.

        Args:
            episodes: newest episodes before the later ones, by environment.
        """
        record = replace(
            self,
            fossilized=self.fossilized + later.fossilized,
            pruned=self.pruned + later.pruned,
            contribution_sum_pp=self.contribution_sum_pp + later.contribution_sum_pp,
            contribution_squares_pp2=self.contribution_squares_pp2 + later.contribution_squares_pp2,
            measured=self.measured + later.measured,
        )
        for reference in later.unknown:
            contribution = contribution_of(reference, episodes.get(reference.env))
            if isinstance(contribution, SeedReference):
                record = replace(record, unknown=(*record.unknown, contribution))
            elif contribution is not None:
                record = record.measured_as(contribution)
        return record


def contribution_of(seed: SeedReference, episode: EpisodeHistory | None) -> float | SeedReference | None:
    """The newest measured contribution of a seed in ``episode``, the newest one of its environment.

    ``None`` if it was not measured; the reference itself if only earlier records could tell.
    """
    if episode is None:
        return seed
    if episode.episode != seed.episode:
        return None
    slot = episode.slots.get(seed.slot)
    if slot is not None and slot.seed == seed.seed:
        contribution = slot.measured_contribution_pp
        known = contribution is not None or slot.germinated_step is not None or episode.begun or episode.succeeds
        return contribution if known else seed
    known = slot is not None or episode.is_complete or seed.slot in episode.touched
    return None if known else seed
