"""Reward engine of an episode, from transitions to ledger entries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.records import LedgerEntry
from esper_ray.leyline.stages import WITH_MODULE
from esper_ray.simic.ledger import Ledger, RewardError
from esper_ray.simic.live import contribution, simple
from esper_ray.simic.live.own import OwnReward
from esper_ray.simic.live.settlement import settlement
from esper_ray.simic.live.state import Accounts
from esper_ray.simic.live.step_context import StepContext
from esper_ray.simic.live.transition import Transition


@dataclass(frozen=True, slots=True)
class RewardRule:
    """Booking function of one mode with its requirements."""

    book: Callable[[StepContext], None]
    charges_lost_seeds: bool = True
    """Whether seeds that a rollback removes are charged."""
    needs_control: bool = False
    """Whether it compares with a no-growth control."""


RULES: Mapping[tuple[str, str], RewardRule] = MappingProxyType(
    {
        ("contribution", "shaped"): RewardRule(contribution.shaped),
        ("contribution", "escrow"): RewardRule(contribution.escrow),
        ("contribution", "basic"): RewardRule(simple.basic),
        ("contribution", "basic_plus"): RewardRule(simple.basic_plus),
        ("contribution", "simplified"): RewardRule(simple.simplified),
        ("contribution", "sparse"): RewardRule(simple.sparse),
        ("contribution", "minimal"): RewardRule(simple.minimal),
        ("contribution", "settlement"): RewardRule(settlement, charges_lost_seeds=False, needs_control=True),
        ("loss", "shaped"): RewardRule(simple.loss, charges_lost_seeds=False),
    }
)
"""Every built-in mode of every family."""


def rule_of(config: RewardConfig) -> RewardRule:
    """Rule of the mode. An own one books everything but the penalty of a rollback itself.

    Raises:
        PluginError: if there is no such own mode, or it cannot be imported.
        ConfigError: if its options are not valid.
    """
    if config.is_own:
        return RewardRule(OwnReward(config).book, charges_lost_seeds=False)
    return RULES[config.family, config.mode]


def needs_control(config: RewardConfig) -> bool:
    """Whether the mode compares with a no-growth control."""
    return not config.is_own and RULES[config.family, config.mode].needs_control


@dataclass(frozen=True, slots=True)
class SavedRewards:
    """Saved state of a reward engine."""

    accounts: Accounts
    control_pp: tuple[float, ...]
    entries: tuple[LedgerEntry, ...]


class RewardEngine:
    """Engine that converts transitions into ledger entries."""

    def __init__(
        self,
        config: RewardConfig,
        gamma: float,
        rollback_penalty: float,
        first_accuracy_pp: float,
        control_pp: Sequence[float] = (),
    ) -> None:
        """
        Args:
            gamma: discount of the returns, and so of the potentials.
            rollback_penalty: charged when the network is restored.
            first_accuracy_pp: validation accuracy before the first step.
            control_pp: (steps + 1,) validation accuracies of the same host without growth, if the mode needs them.

        Raises:
            PluginError: if the mode is an own one that cannot be used.
            ConfigError: if its options are not valid.
        """
        self._rule = rule_of(config)
        self.config, self.gamma, self.rollback_penalty = config, gamma, rollback_penalty
        self.control_pp = tuple(control_pp)
        self.accounts = Accounts((first_accuracy_pp,))
        self.ledger = Ledger()

    def settle(self, t: Transition) -> tuple[LedgerEntry, ...]:
        """Book a step and return its entries.

        Raises:
            RewardError: if a measurement is not finite, the control does not reach so far, or an own mode fails.
                Nothing is paid then.
        """
        t.check()
        rule = self._rule
        control = self._control(t.epoch) if rule.needs_control else None
        booking = StepContext(t, self.accounts, self.config, self.gamma, control)
        rule.book(booking)
        if rule.charges_lost_seeds:
            _charge_lost_seeds(booking)
        if t.restored_because_of is not None:
            why = "the network had to be restored"
            booking.pay("rollback", -self.rollback_penalty, why, cause=t.restored_because_of)
        entries = tuple(booking.entries)
        self.ledger.book(entries)
        self.accounts = booking.accounts.without_empty(t)
        return entries

    def saved(self) -> SavedRewards:
        """State for :meth:`resume`."""
        return SavedRewards(self.accounts, self.control_pp, self.ledger.entries)

    def resume(self, saved: SavedRewards) -> None:
        """Resume from ``saved``."""
        self.accounts, self.control_pp = saved.accounts, saved.control_pp
        self.ledger = Ledger()
        self.ledger.book(saved.entries)

    def _control(self, epoch: int) -> float:
        if epoch >= len(self.control_pp):
            raise RewardError(
                "control_missing",
                f"mode {self.config.mode!r} needs the accuracy without growth after epoch {epoch}; "
                f"{len(self.control_pp)} values are known",
            )
        return self.control_pp[epoch]


def _charge_lost_seeds(b: StepContext) -> None:
    """Charge each live seed that a rollback removed, at the step that caused it."""
    if b.t.restored_because_of is None:
        return
    left = {report.seed_id for report in b.t.after if report is not None and report.stage in WITH_MODULE}
    for report in b.t.before:
        if report is not None and report.stage in WITH_MODULE and report.seed_id not in left:
            why = "the seed was lost when the network was restored"
            b.pay("lost seed", b.config.auto_prune_penalty, why, report.slot_id, b.t.restored_because_of)
