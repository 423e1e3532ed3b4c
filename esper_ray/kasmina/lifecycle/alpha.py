"""Pure controller of a seed's amplitude, which rests or ramps to a target."""

import math
from dataclasses import dataclass, replace

from esper_ray.leyline.actions import DEFAULT_STEEPNESS, AlphaCurve, AlphaMode

TOLERANCE = 1e-6
"""Tolerance below which two amplitudes are equal."""
MIN_STEEPNESS = 0.1


@dataclass(frozen=True, slots=True)
class AlphaController:
    """State of one amplitude. All amplitudes lie in [0, 1]."""

    alpha: float = 0.0
    start: float = 0.0
    target: float = 0.0
    mode: AlphaMode = AlphaMode.HOLD
    curve: AlphaCurve = AlphaCurve.LINEAR
    steepness: float = DEFAULT_STEEPNESS
    total: int = 0
    done: int = 0

    def retargeted(
        self, target: float, ticks: int, curve: AlphaCurve, steepness: float, *, even_if_there: bool = False
    ) -> "AlphaController":
        """The controller at the beginning of a ramp to ``target``.

        The ramp takes ``ticks`` ticks; 0 jumps at once.

        Args:
            even_if_there: run the ramp although the amplitude is at its target already, because
                something else fades along with it (the operator).

        Raises:
            ValueError: if a ramp is running, ``target`` is outside [0, 1], ``ticks`` is not a whole number or
                negative, ``curve`` does not exist, or ``steepness`` is not finite.
        """
        if self.mode is not AlphaMode.HOLD:
            raise ValueError(f"amplitude is ramping {self.mode.name} to {self.target}; it can be retargeted at rest")
        if not 0.0 <= target <= 1.0:
            raise ValueError(f"amplitude target must lie in [0, 1], got {target}")
        check_ticks("ramp length", ticks, least=0)
        if not isinstance(curve, AlphaCurve):
            raise ValueError(
                f"curve must be one of {', '.join(f'AlphaCurve.{c.name}' for c in AlphaCurve)}, got {curve!r}"
            )
        if not math.isfinite(steepness):
            raise ValueError(f"steepness must be finite, got {steepness}")
        ramp = replace(
            self, start=self.alpha, target=target, curve=curve, steepness=max(steepness, MIN_STEEPNESS), done=0
        )
        there = abs(target - self.alpha) <= TOLERANCE
        if ticks == 0 or (there and not even_if_there):
            return replace(ramp, alpha=target, total=0, mode=AlphaMode.HOLD)
        mode = AlphaMode.DOWN if target < self.alpha and not there else AlphaMode.UP
        return replace(ramp, total=ticks, mode=mode)

    def ticked(self) -> "AlphaController":
        """The controller one tick later. The last tick lands on the target exactly."""
        if self.mode is AlphaMode.HOLD:
            return self
        done = self.done + 1
        if done >= self.total:
            return replace(self, alpha=self.target, done=self.total, mode=AlphaMode.HOLD)
        moved = replace(self, done=done)
        alpha = self.start + (self.target - self.start) * moved.share
        low, high = min(self.start, self.target), max(self.start, self.target)
        return replace(moved, alpha=min(max(alpha, low), high))

    @property
    def share(self) -> float:
        """Share of the running ramp that is done, in [0, 1]; 1 at rest."""
        if self.mode is AlphaMode.HOLD:
            return 1.0
        return ramp_share(self.curve, self.done / self.total, self.steepness)

    @property
    def at_target(self) -> bool:
        """Whether the amplitude rests at its target."""
        return self.mode is AlphaMode.HOLD and abs(self.alpha - self.target) <= TOLERANCE

    @property
    def velocity(self) -> float:
        """Mean slope of the running ramp per tick; 0 at rest."""
        if self.mode is AlphaMode.HOLD or self.total == 0:
            return 0.0
        return (self.target - self.start) / self.total


def check_ticks(name: str, ticks: object, least: int) -> None:
    """Check that a number of ticks is a whole number of at least ``least``.

    Raises:
        ValueError: if ``ticks`` is not a whole number, or less than ``least``.
    """
    if not isinstance(ticks, int) or isinstance(ticks, bool) or ticks < least:
        raise ValueError(f"{name} must be a whole number of at least {least} ticks, got {ticks!r}")


def ramp_share(curve: AlphaCurve, time: float, steepness: float = DEFAULT_STEEPNESS) -> float:
    """Completed share of a ramp at ``time``, both in [0, 1].

    0, 1/2 and 1 map to themselves.

    Args:
        curve: linear ``t``; cosine ``(1 - cos(pi t)) / 2``; or a logistic curve rescaled to end at 0 and 1.
        steepness: slope parameter of the logistic curve.
    """
    t = min(max(time, 0.0), 1.0)
    if curve is AlphaCurve.LINEAR:
        return t
    if curve is AlphaCurve.COSINE:
        return (1.0 - math.cos(math.pi * t)) / 2.0
    low, high = _logistic(-steepness / 2.0), _logistic(steepness / 2.0)
    if high == low:
        return t
    return (_logistic(steepness * (t - 0.5)) - low) / (high - low)


def _logistic(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)
