"""Records of a sweep: results of its trials, and the ranking of its choices."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from esper_ray.leyline.results.evaluation import Interval

DONE = ("finished", "stopped")
"""Statuses of trials that a resumed sweep does not run again."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Result of one trial so far."""

    trial: str
    settings: Mapping[str, Any]
    """Varied settings: reward mode, seed, grid. Under a population scheduler these are the latest values."""
    status: str
    """waiting, running, finished, stopped (by the scheduler, before its last round), interrupted or failed."""
    round_index: int
    """Number of finished rounds."""
    rounds: int
    score_pp: float | None
    """Mean objective of its last rounds, in percentage points; ``None`` before the first."""
    curve_pp: tuple[float, ...]
    """Objective of each round."""
    means: Mapping[str, float]
    """Means of other figures over its last rounds, by name."""
    rollbacks: int
    env_steps: int
    generation: int = 0
    """Number of times that it cloned another trial."""
    run: str = ""
    """Its run directory, relative to that of the sweep."""

    def reported_pp(self, window: int) -> list[float]:
        """Values reported to the scheduler after each round: mean objective of the last ``window`` rounds."""
        recent = [self.curve_pp[max(0, end - window) : end] for end in range(1, len(self.curve_pp) + 1)]
        return [fmean(values) for values in recent]


@dataclass(frozen=True, slots=True)
class RankedChoice:
    """Rank of one choice of a sweep."""

    choice: str
    trials: int
    score_pp: Interval
    """Interquartile mean of the scores of its trials, with a stratified bootstrap interval."""
    spread_pp: float
    """Standard deviation of the scores; 0 for a single trial."""
    best_share: float
    """Share of the resamples in which no other choice is better; ties are split."""
    stopped: int
    """Number of trials that were stopped before their last round."""
