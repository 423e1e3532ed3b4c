"""Inputs and results of the single-slot formulas."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.records import Source
from esper_ray.leyline.stages import Stage
from esper_ray.simic.ledger import check_finite
from esper_ray.simic.rewards.bonuses import Drip
from esper_ray.simic.rewards.credit import EscrowMove


class Amount(NamedTuple):
    """One term of a reward."""

    source: Source
    amount: float


@dataclass(frozen=True, slots=True)
class Seed:
    """The seed in the addressed slot."""

    stage: Stage
    ticks: int
    """Epochs in the stage."""
    previous_stage: Stage
    previous_ticks: int
    age: int
    improvement_since_stage: float | None = None
    """Points gained since the stage began, by the seed or by the host."""
    improvement: float | None = None
    """Accuracy with all measured seeds minus accuracy with none; ``None`` if unmeasured."""
    interaction_sum: float = 0.0


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One step of one slot. Accuracies and contributions in percentage points."""

    operation: LifecycleOp
    epoch: int
    """Counted from 1."""
    max_epochs: int
    host_parameters: int
    total_parameters: int
    accuracy: float
    seed: Seed | None = None
    contribution: float | None = None
    accuracy_at_germination: float | None = None
    accuracy_change: float = 0.0
    committed_accuracy: float | None = None
    stable_accuracy: float | None = None
    committed_parameters: int = 0
    live_seeds: int = 0
    committed_seeds: int = 0
    contributing_committed_seeds: int = 0
    effective_parameters: float | None = None
    """Amplitude-weighted extra parameters; all extra parameters count if it is left out."""
    squared_alpha_changes: float = 0.0
    escrow_credit: float = 0.0
    slot_id: str | None = None
    seed_id: str | None = None
    drips: tuple[Drip, ...] = ()
    committed_contributions: Mapping[str, float] | None = None
    """By seed."""

    @property
    def last(self) -> bool:
        """Whether this is the last step of an episode."""
        return self.epoch == self.max_epochs

    @property
    def overhead(self) -> float:
        """Extra parameters that are charged rent."""
        if self.effective_parameters is not None:
            return self.effective_parameters
        return max(self.total_parameters - self.host_parameters, 0)


@dataclass(frozen=True, slots=True)
class StepReward:
    """Reward of a step, and drips and credits that it starts."""

    amounts: tuple[Amount, ...]
    drip: Drip | None = None
    """A drip that starts with this step."""
    escrow: EscrowMove | None = None

    @property
    def total(self) -> float:
        """The reward."""
        return sum((amount for _, amount in self.amounts), 0.0)

    def of(self, *sources: Source) -> float:
        """Sum of the terms from ``sources``."""
        return sum((amount for source, amount in self.amounts if source in sources), 0.0)


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One step of the family ``loss``."""

    epoch: int
    max_epochs: int
    change: float
    """Of the validation loss in nats; negative is better."""
    loss: float
    host_parameters: int
    total_parameters: int
    seed: Seed | None = None


def check_numbers(record: Any) -> None:
    """Refuse numbers in ``record`` that are not finite, by the names of their fields."""
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, float):
            check_finite(field.name.replace("_", " "), value)
        elif isinstance(value, Seed):
            check_numbers(value)
        elif isinstance(value, Mapping):
            for name, number in value.items():
                check_finite(f"{field.name.replace('_', ' ')} of {name}", number)
