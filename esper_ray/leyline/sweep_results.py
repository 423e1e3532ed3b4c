"""Records of a sweep: what its trials came to, and how the choices among them rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from esper_ray.leyline.evaluation_results import Interval

DONE = ("finished", "stopped")
"""Statuses of trials that a resumed sweep does not take up again."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What one trial has come to so far."""

    trial: str
    settings: Mapping[str, Any]
    """What sets it apart: reward mode, seed, grid. Under a population scheduler these are its latest values."""
    status: str
    """waiting, running, finished, stopped (by the scheduler, before its last round), interrupted or failed."""
    round_index: int
    """Rounds that are finished."""
    rounds: int
    score_pp: float | None
    """Mean objective of its last rounds, in percentage points; None before the first."""
    curve_pp: tuple[float, ...]
    """Objective of each round."""
    means: Mapping[str, float]
    """Means of its last rounds of what else one wants to know."""
    rollbacks: int
    env_steps: int
    generation: int = 0
    """Times that it has gone on from another trial."""
    run: str = ""
    """Its run directory, relative to that of the sweep."""

    def reported_pp(self, window: int) -> list[float]:
        """What it told the scheduler after each round: the mean objective of the last ``window`` rounds then."""
        recent = [self.curve_pp[max(0, end - window) : end] for end in range(1, len(self.curve_pp) + 1)]
        return [fmean(values) for values in recent]


@dataclass(frozen=True, slots=True)
class RankedChoice:
    """One choice among those that a sweep compares."""

    choice: str
    trials: int
    score_pp: Interval
    """Interquartile mean of the scores of its trials, with a stratified bootstrap interval."""
    spread_pp: float
    """Standard deviation of the scores; 0 for a single trial."""
    best_share: float
    """Share of the resamples in which no other choice does better; ties are shared."""
    stopped: int
    """Trials that were stopped before their last round."""
