"""Learning rates over an episode, as pure functions of epoch and step."""

from collections.abc import Sequence
from math import cos, pi


def schedule_factors(
    epoch: int, steps: int, *, epochs: int, warmup_epochs: int = 0, cosine: bool = False
) -> list[float]:
    """Share of the full learning rate in each step of an epoch.

    Linear from zero over ``warmup_epochs``; after that constant, or half a cosine down to zero at the end of
    ``epochs``. Source of the latter: Loshchilov and Hutter, SGDR (2017), without restarts.

    Args:
        epoch: counted from 0.
        epochs: length of the episode.
    """
    times = [epoch + (step + 1) / steps for step in range(steps)]
    return [_factor(time, epochs, warmup_epochs, cosine) for time in times]


def warmup_factors(age: int, steps: int, warmup_epochs: int) -> list[float]:
    """Warm-up factors of the learning rate in each step of an epoch.

    ``age`` is the number of epochs that the seed has trained.
    """
    return [_rise(age + (step + 1) / steps, warmup_epochs) for step in range(steps)]


def products(first: Sequence[float], second: Sequence[float], scale: float) -> list[float]:
    """Element-wise ``scale * first * second``."""
    return [scale * a * b for a, b in zip(first, second, strict=True)]


def _rise(time: float, warmup: int) -> float:
    return 1.0 if time >= warmup else time / warmup


def _factor(time: float, epochs: int, warmup: int, cosine: bool) -> float:
    if time < warmup or not cosine:
        return _rise(time, warmup)
    passed = (time - warmup) / max(epochs - warmup, 1)
    return 0.5 * (1.0 + cos(pi * min(passed, 1.0)))
