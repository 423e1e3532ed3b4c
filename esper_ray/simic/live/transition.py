"""Transition of one environment step."""

from dataclasses import dataclass

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.records import Measurement, Reports, SlotReport
from esper_ray.simic.ledger import check_finite


@dataclass(frozen=True, slots=True)
class Transition:
    """A decision with the slots and measurements before and after it."""

    step: int
    """Counted from 0."""
    max_steps: int
    operation: LifecycleOp
    """The executed operation; WAIT if the action was illegal."""
    slot: int
    success: bool
    before: Reports
    """Slots at the time of the decision."""
    after: Reports
    """Slots at the end of the step."""
    known: Measurement
    """Measurements before the decision."""
    measured: Measurement
    """Measurements at the end of the step."""
    host_parameters: int
    truncated: bool = False
    restored_because_of: int | None = None
    """Step that caused a rollback, which ends the episode; ``None`` without one."""

    @property
    def terminated(self) -> bool:
        """Whether a rollback ended the episode."""
        return self.restored_because_of is not None

    @property
    def last(self) -> bool:
        """Whether the episode ends with this step."""
        return self.truncated or self.terminated

    @property
    def epoch(self) -> int:
        """The step counted from 1."""
        return self.step + 1

    @property
    def addressed(self) -> SlotReport | None:
        """The seed in the slot that the operation names, before it."""
        return self.before[self.slot]

    @property
    def slot_id(self) -> str | None:
        """Id of the slot of the operation, if it holds or held a seed."""
        report = self.after[self.slot] or self.before[self.slot]
        return None if report is None else report.slot_id

    def did(self, operation: LifecycleOp) -> bool:
        """Whether ``operation`` was executed and took effect."""
        return self.success and self.operation is operation

    def check(self) -> None:
        """Check that the measurements are finite.

        Raises:
            RewardError: naming the first one that is not a finite number.
        """
        for when, measured in (("before", self.known), ("after", self.measured)):
            numbers = {"validation loss": measured.loss, "validation accuracy": measured.accuracy_pp}
            for coalition in measured.coalitions:
                numbers[f"accuracy of coalition {sorted(coalition.members)}"] = coalition.accuracy_pp
            for name, value in numbers.items():
                check_finite(f"{name} {when} step {self.step}", value)
