"""Governor of host health. Thresholds scale with the task and the episode's history."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from esper_ray.leyline.config.run import GovernorConfig

MAD_TO_DEVIATION = 1.4826
"""Factor from median absolute deviation to standard deviation, for a normal distribution."""
MIN_LOSS_DEVIATION = 0.01
"""Minimum deviation of losses, as a share of the random-guess loss."""
MIN_ACCURACY_DEVIATION_PP = 1.0
"""Minimum deviation of accuracies."""


@dataclass(frozen=True, slots=True)
class HealthVerdict:
    """Health verdict on one epoch."""

    panic: bool
    healthy: bool
    """Neither panic nor suspicion: the epoch may be snapshotted."""
    reason: str = ""
    value: float = 0.0
    threshold: float = 0.0


HEALTHY = HealthVerdict(panic=False, healthy=True)


@dataclass(frozen=True, slots=True)
class GovernorState:
    """State of the governor within an episode."""

    losses: tuple[float, ...] = ()
    """Validation losses of the latest healthy epochs, oldest first."""
    accuracies_pp: tuple[float, ...] = ()
    """Committed accuracies of the same epochs."""
    suspicions: int = 0
    """Number of consecutive suspicious epochs."""


class Governor:
    """Governor of one episode."""

    def __init__(self, config: GovernorConfig, random_guess_loss: float, chance_pp: float, examples: int) -> None:
        """
        Args:
            random_guess_loss: cross-entropy of a uniform prediction, in nats.
            chance_pp: accuracy of a uniform prediction.
            examples: number of examples that accuracies are measured on.
        """
        self.config, self.random_guess_loss, self.chance_pp = config, random_guess_loss, chance_pp
        self.examples = examples
        self.state = GovernorState()

    def judge(self, train_loss: float | None, val_loss: float, committed_pp: float) -> HealthVerdict:
        """Verdict on an epoch.

        A non-finite loss is a panic at once. Two conditions are suspicious, and a panic when confirmed:

        - divergence: a validation loss far above both random guessing and its own history;
        - collapse: an accuracy of host and committed seeds that has lost most of its margin above chance.

        Args:
            train_loss: in nats, as is ``val_loss``; ``None`` if unknown.
            committed_pp: validation accuracy with only committed seeds active.
        """
        for name, loss in (("training", train_loss), ("validation", val_loss)):
            if loss is not None and not math.isfinite(loss):
                return HealthVerdict(True, False, f"{name} loss is not finite", loss, math.inf)
        highest, lowest = self._divergence_threshold(), self._collapse_threshold()
        if val_loss > highest:
            return self._suspicious("validation loss diverges", val_loss, highest)
        if committed_pp < lowest:
            return self._suspicious("committed accuracy collapses", committed_pp, lowest)
        window, state = self.config.window, self.state
        losses, accuracies = (*state.losses, val_loss)[-window:], (*state.accuracies_pp, committed_pp)[-window:]
        self.state = GovernorState(losses, accuracies)
        return HEALTHY

    def _suspicious(self, reason: str, value: float, threshold: float) -> HealthVerdict:
        self.state = replace(self.state, suspicions=self.state.suspicions + 1)
        return HealthVerdict(self.state.suspicions >= self.config.confirmations, False, reason, value, threshold)

    def _divergence_threshold(self) -> float:
        losses = self.state.losses
        if len(losses) < self.config.min_history:
            return math.inf
        deviation = max(_deviation(losses), MIN_LOSS_DEVIATION * self.random_guess_loss)
        return max(
            self.config.loss_multiple * self.random_guess_loss,
            median(losses) + self.config.deviations * deviation,
        )

    def _collapse_threshold(self) -> float:
        accuracies = self.state.accuracies_pp
        if len(accuracies) < self.config.min_history or self.config.collapse_share == 0.0:
            return -math.inf
        usual = median(accuracies)
        sampling = math.sqrt(usual * (100.0 - usual) / self.examples)
        deviation = max(_deviation(accuracies), sampling, MIN_ACCURACY_DEVIATION_PP)
        return min(
            self.chance_pp + self.config.collapse_share * (usual - self.chance_pp),
            usual - self.config.deviations * deviation,
        )


def _deviation(values: Sequence[float]) -> float:
    """Robust standard deviation: scaled median absolute deviation."""
    centre = median(values)
    return MAD_TO_DEVIATION * median(abs(value - centre) for value in values)
