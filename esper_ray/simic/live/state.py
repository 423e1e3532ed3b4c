"""Accounts of an episode between steps: immutable and JSON-serialisable."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.records import SlotReport
from esper_ray.leyline.stages import COMMITTED, WITH_MODULE, Stage
from esper_ray.simic.live.transition import Transition


@dataclass(frozen=True, slots=True)
class Boost:
    """Boost of this seed's effect by another seed."""

    slot: str
    total_pp: float
    """Positive interactions, summed over the steps in which they were measured."""
    steps: int
    cause_step: int
    """Last effective operation on the other seed."""

    @property
    def mean_pp(self) -> float:
        """Mean positive interaction."""
        return self.total_pp / self.steps


@dataclass(frozen=True, slots=True)
class SlotAccount:
    """Account of one seed, from its germination until its slot is empty."""

    seed_id: str
    germinated_step: int
    accuracy_at_germination_pp: float
    operated_step: int
    """Last effective operation on it."""
    held_step: int | None = None
    """Last step at which it could have been committed."""
    committed_step: int | None = None
    pruned: bool = False
    """Whether its removal was ordered, which ends its pay."""
    credit: float = 0.0
    """``escrow``: its credit."""
    drip_scale: float = 0.0
    """``basic_plus``: reward per point and epoch."""
    drip_left: float = 0.0
    """``basic_plus``: reward that was withheld at the commitment and not paid since."""
    values_pp: tuple[float, ...] = ()
    """``settlement``: its latest Shapley values since its commitment."""
    worth: float = 0.0
    """``settlement``: amount paid for it so far."""
    vested: float = 0.0
    """``settlement``: share of its value that was paid."""
    boosts: Mapping[str, Boost] = field(default_factory=dict)
    """Boosts by the slot of the boosting seed."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """The state of all accounts of an episode."""

    accuracies_pp: tuple[float, ...]
    """Validation accuracies of the episode, including the one before the first step."""
    slots: Mapping[str, SlotAccount] = field(default_factory=dict)
    committed_improvement_pp: float | None = None
    """Joint improvement of the committed seeds, as last measured."""
    host_gaps_pp: tuple[float, ...] = ()
    """``settlement``: latest accuracies of the host without seeds minus the control's."""
    host_worth: float = 0.0
    """``settlement``: amount paid for the host without seeds so far."""

    def followed(self, t: Transition) -> "Accounts":
        """The accounts after the events of a step, before its pay."""
        slots = dict(self.slots)
        for index, after in enumerate(t.after):
            before = t.before[index]
            name = (after or before).slot_id if after or before else None  # type: ignore[union-attr]
            if name is None:
                continue
            account = slots.get(name)
            if (
                after is not None
                and after.stage in WITH_MODULE
                and (account is None or account.seed_id != after.seed_id)
            ):
                account = SlotAccount(after.seed_id, t.step, t.known.accuracy_pp, t.step)
            if account is None:
                continue
            slots[name] = _followed(account, t, before, after, addressed=index == t.slot)
        return replace(self, accuracies_pp=(*self.accuracies_pp, t.measured.accuracy_pp), slots=slots)

    def without_empty(self, t: Transition) -> "Accounts":
        """The accounts without those of slots that have become empty."""
        occupied = {report.slot_id for report in t.after if report is not None}
        return replace(self, slots={name: account for name, account in self.slots.items() if name in occupied})

    def stable_accuracy_pp(self, account: SlotAccount, window: int) -> float:
        """Minimum of the last ``window`` accuracies since the seed's germination."""
        lived = len(self.accuracies_pp) - 1 - account.germinated_step
        return min(self.accuracies_pp[-max(1, min(window, lived)) :])


def _followed(
    account: SlotAccount, t: Transition, before: SlotReport | None, after: SlotReport | None, *, addressed: bool
) -> SlotAccount:
    if addressed and t.success and t.operation is not LifecycleOp.WAIT:
        account = replace(account, operated_step=t.step)
        if t.operation is LifecycleOp.PRUNE:
            account = replace(account, pruned=True)
    if before is not None and before.seed_id == account.seed_id and before.stage is Stage.HOLDING:
        account = replace(account, held_step=t.step)
    if after is not None and after.stage in COMMITTED and account.committed_step is None:
        account = replace(account, committed_step=t.step)
    return account
