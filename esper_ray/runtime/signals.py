"""Signals of a host: recent validation results and the last operation, as policies see them."""

from dataclasses import dataclass

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.legality import Limits, legality
from esper_ray.leyline.observation import HISTORY
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import HostSignals, Measurement, Reports


@dataclass(frozen=True, slots=True)
class SignalHistory:
    """History of a host: recent validation results and the last operation."""

    max_epochs: int
    losses: tuple[float, ...]
    """Validation losses in nats, oldest first, the present one last; at most :data:`HISTORY`."""
    accuracies_pp: tuple[float, ...]
    operation: LifecycleOp = LifecycleOp.WAIT
    success: bool = True

    @classmethod
    def start(cls, max_epochs: int, measured: Measurement) -> "SignalHistory":
        """The history of a host before its first epoch."""
        return cls(max_epochs, (measured.loss,), (measured.accuracy_pp,))

    def after(self, operation: LifecycleOp, success: bool, measured: Measurement) -> "SignalHistory":
        """The history with one more epoch."""
        losses = (*self.losses, measured.loss)[-HISTORY:]
        accuracies = (*self.accuracies_pp, measured.accuracy_pp)[-HISTORY:]
        return SignalHistory(self.max_epochs, losses, accuracies, operation, success)

    def view(self, epoch: int, reports: Reports, limits: Limits) -> View:
        """The view of a policy after ``epoch`` epochs.

        Raises:
            ValueError: if a measurement is not finite.
        """
        signals = HostSignals(
            epoch=epoch,
            max_epochs=self.max_epochs,
            val_loss=self.losses[-1],
            val_accuracy_pp=self.accuracies_pp[-1],
            loss_history=self.losses,
            accuracy_history_pp=self.accuracies_pp,
            last_op=int(self.operation),
            last_success=self.success,
        )
        masks = legality(reports, limits, self.max_epochs - epoch)
        return View.build(signals, reports, masks, limits.places)
