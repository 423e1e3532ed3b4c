"""State of one environment's episode and of the slots in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from esper_ray.leyline.records import Record
from esper_ray.leyline.stages import Stage

_HOST_VALUES = ("val_accuracy_pp", "val_loss", "committed_accuracy_pp", "total_parameters", "growth_ratio")


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
            **_host_values(record),
        )

    def after_step(self, record: Record) -> "EpisodeState":
        """The episode after this ``env_epoch``."""
        best, best_step = self.best_accuracy_pp, self.best_step
        accuracy, total, reward = record["val_accuracy_pp"], self.episode_return, record["reward"]
        if accuracy is not None and (best is None or accuracy > best):
            best, best_step = accuracy, record["step"]
        return replace(
            self,
            **_host_values(record),
            step=record["step"],
            best_accuracy_pp=best,
            best_step=best_step,
            operation=record["operation"],
            success=record["success"],
            reward=reward,
            episode_return=None if total is None or reward is None else total + reward,
            slots={name: _reported(report, self.slots.get(name)) for name, report in record["slots"].items()},
        )

    def after_transition(self, record: Record) -> "EpisodeState":
        """The episode after this ``seed_transition``."""
        name, target, slots = record["slot"], Stage[record["to"]], dict(self.slots)
        slot = self.seed_slot(record)
        if target is Stage.DORMANT:
            slots.pop(name, None)
        elif slot is None:
            germinated_step = record["step"] if target is Stage.GERMINATED else None
            slots[name] = SlotState(record["seed"], record["blueprint"], target, germinated_step)
        else:
            slots[name] = replace(slot, stage=target)
        return replace(self, slots=slots)

    def after_end(self, record: Record) -> "EpisodeState":
        """The episode after this ``outcome``."""
        return replace(self, **_host_values(record), finished=True, episode_return=record["total_reward"])

    def seed_slot(self, record: Record) -> SlotState | None:
        """The slot of a record about a seed, if that seed is in it."""
        slot = self.slots.get(record["slot"])
        return slot if slot is not None and slot.seed == record["seed"] else None


def _host_values(record: Record) -> dict[str, Any]:
    return {name: record[name] for name in _HOST_VALUES}


def _reported(report: Record, before: SlotState | None) -> SlotState:
    """State of a slot from its report, with the earlier records of its seed."""
    same = before if before is not None and before.seed == report["seed"] else None
    contribution = report["contribution_pp"]
    measured = contribution if contribution is not None or same is None else same.measured_contribution_pp
    return SlotState(
        seed=report["seed"],
        blueprint=report["blueprint"],
        stage=Stage[report["stage"]],
        germinated_step=same.germinated_step if same else None,
        alpha=report["alpha"],
        contribution_pp=contribution,
        contribution_error_pp=report["contribution_error_pp"],
        measured_contribution_pp=measured,
        gradient_health=report["gradient_health"],
        parameters=report["parameters"],
    )
