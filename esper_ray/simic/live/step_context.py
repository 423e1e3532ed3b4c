"""Context of the step that is being booked."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.commitment import committed_players, committed_slots
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.records import BuiltInSource, LedgerEntry, SlotReport
from esper_ray.leyline.stages import AMPLIFIED, COMMITTED, PRUNABLE, WITH_MODULE
from esper_ray.simic.attribution import live_improvement
from esper_ray.simic.live.state import Accounts, SlotAccount
from esper_ray.simic.live.transition import Transition
from esper_ray.simic.rewards import costs, shaping


class StepContext:
    """Context of a step: transition, updated accounts and entries so far."""

    def __init__(
        self, t: Transition, accounts: Accounts, config: RewardConfig, gamma: float, control_pp: float | None = None
    ) -> None:
        """
        Args:
            accounts: state after the previous step.
            control_pp: validation accuracy without growth after as many epochs, if the mode needs it.
        """
        self.t, self.config, self.gamma, self.control_pp = t, config, gamma, control_pp
        self.accounts = accounts.followed(t)
        self.entries: list[LedgerEntry] = []

    def pay(
        self, source: BuiltInSource, amount: float, why: str, slot: str | None = None, cause: int | None = None
    ) -> None:
        """Book ``amount``, unless it is 0.

        Args:
            cause: step that caused it; default: this one.
        """
        if amount != 0.0:
            step = self.t.step
            self.entries.append(LedgerEntry(source, amount, step, step if cause is None else cause, slot, why))

    def change(self, slot: str, **changes: Any) -> None:
        """Update the account of ``slot``."""
        account = replace(self.accounts.slots[slot], **changes)
        self.accounts = replace(self.accounts, slots={**self.accounts.slots, slot: account})

    def remember_committed_improvement(self, improvement: float | None) -> None:
        """Store the joint improvement of the committed seeds until the next measurement."""
        self.accounts = replace(self.accounts, committed_improvement_pp=improvement)

    def remember_host(self, gaps_pp: tuple[float, ...], worth: float) -> None:
        """``settlement``: store the host's margins over the control and their pay."""
        self.accounts = replace(self.accounts, host_gaps_pp=gaps_pp, host_worth=worth)

    def seeds(self) -> Iterator[tuple[SlotReport, SlotAccount]]:
        """Live and committed seeds at the end of the step, without those being removed."""
        for report in self.t.after:
            if report is not None and report.stage in WITH_MODULE:
                account = self.accounts.slots[report.slot_id]
                if not account.pruned:
                    yield report, account

    def known_improvement(self) -> float | None:
        """Joint improvement of the uncommitted seeds, as known at the decision."""
        return live_improvement(self.t.known, committed_slots(self.t.before))

    def committed_change(self) -> float | None:
        """Change of accuracy with the committed seeds alone that the commitment of this step makes.

        In percentage points, as known at the decision; if that was not measured, at the end of the step; else ``None``.
        """
        seed = self.committed()
        if seed is None:
            return None
        committed = committed_slots(self.t.before)
        for measured in (self.t.known, self.t.measured):
            group = committed_players(committed, measured)
            alone, with_seed = measured.coalition(group), measured.coalition(group | {seed.slot_id})
            if alone is not None and with_seed is not None:
                return with_seed.accuracy_pp - alone.accuracy_pp
        return None

    def shape(self, weight: float, *, dwell: bool = True) -> None:
        """Book shaping over the potentials of all slots; the final potential is 0.

        Source: Ng, Harada and Russell, Policy invariance under reward transformations (1999).
        """
        if self.config.disable_pbrs:
            return
        for before, after in zip(self.t.before, self.t.after, strict=True):
            held = self._potential(before, dwell=dwell)
            holds = 0.0 if self.t.last else self._potential(after, dwell=dwell)
            if before is not None or after is not None:
                name = (after or before).slot_id  # type: ignore[union-attr]
                amount = shaping.shaping(held, holds, self.gamma, weight)
                self.pay("shaping", amount, f"potential {held:.3g} -> {holds:.3g}", name)

    def effective_parameters(self) -> float:
        """Amplitude-weighted extra parameters at the end of the step."""
        loads = {r.slot_id: costs.Load(r.stage, r.alpha, r.parameters) for r in self.t.after if r is not None}
        return costs.effective_parameters(loads, self.t.host_parameters, self.config.base_slot_rent_ratio)

    def squared_alpha_changes(self) -> float:
        """Weighted squared amplitude changes of all slots over the step."""
        host, floor = self.t.host_parameters, self.config.rent_host_params_floor
        total = 0.0
        for before, after in zip(self.t.before, self.t.after, strict=True):
            if before is not None and before.stage in AMPLIFIED:
                alpha = after.alpha if after is not None and after.seed_id == before.seed_id else 0.0
                total += costs.squared_change(before.alpha, alpha, before.parameters, host, floor)
        return total

    def live_and_committed(self) -> tuple[int, int]:
        """Number of live and of committed seeds at the end of the step."""
        stages = [report.stage for report in self.t.after if report is not None]
        return sum(stage in PRUNABLE for stage in stages), sum(stage in COMMITTED for stage in stages)

    def committed(self) -> SlotReport | None:
        """The seed that this step committed, in its state at the decision."""
        return self.t.addressed if self.t.did(LifecycleOp.FOSSILIZE) else None

    def _potential(self, report: SlotReport | None, *, dwell: bool) -> float:
        if report is None or report.stage not in WITH_MODULE:
            return 0.0
        if not dwell:
            return shaping.stage_potential(report.stage)
        return shaping.seed_potential(report.stage, report.ticks_in_stage, self.config)


def points(value: float | None) -> str:
    """Text of a number of percentage points for an explanation."""
    return "unmeasured" if value is None else f"{value:+.2f} points"
