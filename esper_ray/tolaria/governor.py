"""Judges whether a host is broken. Thresholds scale with the task: multiples of random guessing."""

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from esper_ray.leyline.config import GovernorConfig

MAD_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation of a normal distribution."""
MIN_DEVIATION = 0.01
"""Least deviation that is believed, as a share of the random-guess loss."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Judgement of one epoch."""

    panic: bool
    healthy: bool
    """Neither panic nor suspicion: the epoch may be snapshotted."""
    reason: str = ""
    value: float = 0.0
    threshold: float = 0.0


class Governor:
    """Watches the losses of one episode."""

    def __init__(self, config: GovernorConfig, random_guess_loss: float) -> None:
        self.config = config
        self.random_guess_loss = random_guess_loss
        self.history: deque[float] = deque(maxlen=config.window)
        self.suspicions = 0

    def judge(self, train_loss: float, val_loss: float) -> Verdict:
        """Verdict on an epoch; losses in nats.

        A loss that is not finite is a panic at once. A validation loss far above both random guessing
        and its own history is suspicious, and a panic when confirmed.
        """
        for name, loss in (("training", train_loss), ("validation", val_loss)):
            if not math.isfinite(loss):
                return Verdict(True, False, f"{name} loss is not finite", loss, math.inf)
        threshold = self._divergence_threshold()
        if val_loss <= threshold:
            self.suspicions = 0
            self.history.append(val_loss)
            return Verdict(False, True)
        self.suspicions += 1
        panic = self.suspicions >= self.config.confirmations
        return Verdict(panic, False, "validation loss diverges", val_loss, threshold)

    def _divergence_threshold(self) -> float:
        if len(self.history) < self.config.min_history:
            return math.inf
        centre = median(self.history)
        deviation = MAD_TO_DEVIATION * median(abs(loss - centre) for loss in self.history)
        deviation = max(deviation, MIN_DEVIATION * self.random_guess_loss)
        return max(
            self.config.loss_multiple * self.random_guess_loss,
            centre + self.config.deviations * deviation,
        )
