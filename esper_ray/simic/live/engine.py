"""The books of an episode: transitions in, entries out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.records import LedgerEntry
from esper_ray.leyline.stages import WITH_MODULE
from esper_ray.simic.ledger import Ledger, RewardError
from esper_ray.simic.live import contribution, simple
from esper_ray.simic.live.settlement import settlement
from esper_ray.simic.live.state import Accounts
from esper_ray.simic.live.step_context import StepContext
from esper_ray.simic.live.transition import Transition

_MODES: Mapping[str, Callable[[StepContext], None]] = MappingProxyType(
    {
        "shaped": contribution.shaped,
        "escrow": contribution.escrow,
        "basic": simple.basic,
        "basic_plus": simple.basic_plus,
        "simplified": simple.simplified,
        "sparse": simple.sparse,
        "minimal": simple.minimal,
    }
)


def needs_control(config: RewardConfig) -> bool:
    """Whether the mode compares with a run that never grew."""
    return config.mode == "settlement"


@dataclass(frozen=True, slots=True)
class SavedBooks:
    """The books, to be gone on with elsewhere."""

    accounts: Accounts
    control_pp: tuple[float, ...]
    entries: tuple[LedgerEntry, ...]


class RewardEngine:
    """Turns what happened into entries of a ledger, step after step."""

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
            rollback_penalty: taken when the network has to be restored.
            first_accuracy_pp: validation accuracy before the first step.
            control_pp: (steps + 1,) validation accuracies of the same host without growth, if the mode needs them.
        """
        self.config, self.gamma, self.rollback_penalty = config, gamma, rollback_penalty
        self.control_pp = tuple(control_pp)
        self.accounts = Accounts((first_accuracy_pp,))
        self.ledger = Ledger()

    def settle(self, t: Transition) -> tuple[LedgerEntry, ...]:
        """Book a step; its entries.

        Raises:
            RewardError: if a measurement is not finite, or the control does not reach so far. Nothing is paid then.
        """
        t.check()
        booking = StepContext(t, self.accounts, self.config, self.gamma)
        if self.config.family == "loss":
            simple.loss(booking)
        elif needs_control(self.config):
            settlement(booking, self._control(t.epoch))
        else:
            _MODES[self.config.mode](booking)
            _charge_lost_seeds(booking)
        if t.restored_because_of is not None:
            why = "the network had to be restored"
            booking.pay("rollback", -self.rollback_penalty, why, cause=t.restored_because_of)
        entries = tuple(booking.entries)
        self.ledger.book(entries)
        self.accounts = booking.accounts.without_empty(t)
        return entries

    def saved(self) -> SavedBooks:
        """All that :meth:`resume` needs."""
        return SavedBooks(self.accounts, self.control_pp, self.ledger.entries)

    def resume(self, saved: SavedBooks) -> None:
        """Go on from ``saved``."""
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
    """For each live seed that a restored network no longer holds, caused by what made restoring necessary."""
    if b.t.restored_because_of is None:
        return
    left = {report.seed_id for report in b.t.after if report is not None and report.stage in WITH_MODULE}
    for report in b.t.before:
        if report is not None and report.stage in WITH_MODULE and report.seed_id not in left:
            why = "the seed was lost when the network was restored"
            b.pay("lost seed", b.config.auto_prune_penalty, why, report.slot_id, b.t.restored_because_of)
