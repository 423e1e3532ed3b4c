"""One environment step as the accounts see it."""

from dataclasses import dataclass

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.records import Measurement, Reports, SlotReport
from esper_ray.simic.ledger import check_finite


@dataclass(frozen=True, slots=True)
class Transition:
    """A decision, the states around it, and what was measured around it."""

    step: int
    """Counted from 0."""
    max_steps: int
    operation: LifecycleOp
    """What was carried out; WAIT if the action was illegal."""
    slot: int
    success: bool
    before: Reports
    """Slots at the time of the decision."""
    after: Reports
    """Slots at the end of the step."""
    known: Measurement
    """What was measured before the decision."""
    measured: Measurement
    """What was measured at the end of the step."""
    host_parameters: int
    truncated: bool = False
    restored_because_of: int | None = None
    """Step that is answerable for it that the network had to be restored, which ends the episode."""

    @property
    def terminated(self) -> bool:
        """Whether the network had to be restored."""
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
        """Name of the slot that the operation names, if there is or was a seed in it."""
        report = self.after[self.slot] or self.before[self.slot]
        return None if report is None else report.slot_id

    def did(self, operation: LifecycleOp) -> bool:
        """Whether ``operation`` was carried out and took effect."""
        return self.success and self.operation is operation

    def check(self) -> None:
        """Refuse measurements that nobody can be paid by.

        Raises:
            RewardError: naming the first one that is not a finite number.
        """
        for when, measured in (("before", self.known), ("after", self.measured)):
            numbers = {"validation loss": measured.loss, "validation accuracy": measured.accuracy_pp}
            for coalition in measured.coalitions:
                numbers[f"accuracy of coalition {sorted(coalition.members)}"] = coalition.accuracy_pp
            for name, value in numbers.items():
                check_finite(f"{name} {when} step {self.step}", value)
