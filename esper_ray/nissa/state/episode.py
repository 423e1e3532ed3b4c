"""State of one environment's episode and of the slots in it.

A state may be folded from a part of the records of its episode. Two parts are merged by :meth:`EpisodeState.merged`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from esper_ray.leyline.records import Record
from esper_ray.leyline.stages import Stage

HOST_VALUES = ("val_accuracy_pp", "val_loss", "committed_accuracy_pp", "total_parameters", "growth_ratio")
"""Fields of an episode that its records report under the same name."""


@dataclass(frozen=True, slots=True)
class SlotState:
    """State of one occupied slot and of the seed in it."""

    seed: str | None
    blueprint: str | None
    stage: Stage
    germinated_step: int | None = None
    """Step of germination; ``None`` if that event is not in the records."""
    alpha: float = 0.0
    """Amplitude with which the seed is blended in, in [0, 1]."""
    contribution_pp: float | None = None
    """Accuracy with the seed minus without it at the newest step; ``None`` if it was not measured then."""
    contribution_error_pp: float | None = None
    """Paired standard error of that."""
    measured_contribution_pp: float | None = None
    """The newest contribution that was measured."""
    gradient_health: float | None = None
    parameters: int = 0
    reported: bool = False
    """Whether a step has reported it; else only its seed, blueprint and stage are known."""

    def merged(self, earlier: "SlotState | None") -> "SlotState":
        """This state of the slot after an ``earlier`` one."""
        if earlier is None or earlier.seed != self.seed:
            return self
        if not self.reported:
            return replace(earlier, stage=self.stage)
        germinated = earlier.germinated_step if self.germinated_step is None else self.germinated_step
        measured = self.measured_contribution_pp
        measured = earlier.measured_contribution_pp if measured is None else measured
        return replace(self, germinated_step=germinated, measured_contribution_pp=measured)


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """State of one environment in its newest episode."""

    env: int
    episode: int
    round: int
    step: int = 0
    """Steps that are done."""
    seed: int | None = None
    """What the episode is a function of, besides its actions."""
    val_accuracy_pp: float | None = None
    val_loss: float | None = None
    committed_accuracy_pp: float | None = None
    total_parameters: int | None = None
    growth_ratio: float | None = None
    best_accuracy_pp: float | None = None
    best_step: int = 0
    """Step at which the validation accuracy was highest."""
    operation: str | None = None
    """Operation of the newest step."""
    success: bool | None = None
    """Whether that operation had its effect."""
    reward: float | None = 0.0
    """Reward of the newest step; ``None`` if it was not finite, as for every number here that may be ``None``."""
    episode_return: float | None = 0.0
    """Sum of the rewards so far, undiscounted."""
    slots: Mapping[str, SlotState] = field(default_factory=dict)
    """Occupied slots by name."""
    finished: bool = False
    rollback: str | None = None
    """Reason for which the governor ended the episode."""
    attribution: Record | None = None
    """Values of the seeds at the end of the episode, a record of kind ``attribution``."""
    begun: bool = False
    """Whether its first record is among those that this state was folded from."""
    succeeds: bool = False
    """Whether these records hold an earlier episode of the environment, and not the beginning of this one."""
    reports: int = 0
    """Number of these records with values of the host."""
    steps: int = 0
    """Number of these records that are steps."""
    touched: frozenset[str] = frozenset()
    """Slots that transitions changed before any of these steps, if the episode's beginning is not among them."""

    @property
    def steps_since_best(self) -> int:
        """Steps since the validation accuracy was highest."""
        return self.step - self.best_step

    @classmethod
    def started(cls, record: Record) -> "EpisodeState":
        """The episode that begins with this ``episode_started``."""
        return cls(
            env=record["env"],
            episode=record["episode"],
            round=record["round"],
            step=record["step"],
            seed=record["seed"],
            best_accuracy_pp=record["val_accuracy_pp"],
            begun=True,
            reports=1,
            **_host_values(record),
        )

    @property
    def is_complete(self) -> bool:
        """Whether no earlier record could hold more about its slots."""
        return self.begun or self.succeeds or self.steps > 0

    def merged(self, later: "EpisodeState") -> "EpisodeState":
        """The state of these records and of ``later`` ones of the same environment."""
        if later.begun or later.succeeds:
            return later
        if later.episode != self.episode:
            return replace(later, succeeds=True, touched=frozenset())
        changes: dict[str, Any] = {}
        if later.reports:
            changes |= {name: getattr(later, name) for name in HOST_VALUES}
        if later.steps:
            changes |= {name: getattr(later, name) for name in ("step", "operation", "success", "reward")}
        if _is_better(later.best_accuracy_pp, self.best_accuracy_pp):
            changes |= {"best_accuracy_pp": later.best_accuracy_pp, "best_step": later.best_step}
        total = self.episode_return
        if later.finished:
            total = later.episode_return
        elif total is not None:
            total = None if later.episode_return is None else total + later.episode_return
        return replace(
            self,
            **changes,
            episode_return=total,
            slots=self._merged_slots(later),
            finished=self.finished or later.finished,
            rollback=self.rollback if later.rollback is None else later.rollback,
            attribution=self.attribution if later.attribution is None else later.attribution,
            reports=self.reports + later.reports,
            steps=self.steps + later.steps,
            touched=frozenset() if later.steps or self.is_complete else self.touched | later.touched,
        )

    def _merged_slots(self, later: "EpisodeState") -> dict[str, SlotState]:
        kept = {} if later.steps else {n: slot for n, slot in self.slots.items() if n not in later.touched}
        return kept | {name: slot.merged(self.slots.get(name)) for name, slot in later.slots.items()}

    def seed_slot(self, record: Record) -> SlotState | None:
        """The slot of a record about a seed, if that seed is in it."""
        slot = self.slots.get(record["slot"])
        return slot if slot is not None and slot.seed == record["seed"] else None


def _is_better(value: float | None, best: float | None) -> bool:
    return value is not None and (best is None or value > best)


def _host_values(record: Record) -> dict[str, Any]:
    return {name: record[name] for name in HOST_VALUES}
