"""Numbers as text, and axes with round ticks."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

NOT_RECORDED = "not recorded by this version"
"""Text in place of what the version of the run did not record."""
NOT_MEASURED = "not measured"
MOST_TICKS = 6
SMALLEST = 1e-100
"""Numbers below it are as good as zero on an axis."""
TICK_LETTERS = 8
"""Greatest length of the text of a tick."""


def shown(value: float | None, form: str = ".3g", unit: str = "") -> str:
    """``value`` with its unit; one that was not measured or not finite says so."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    return f"{value:{form}}{f' {unit}' if unit else ''}"


def percent(ratio: float | None, digits: int = 1) -> str:
    """A ratio in percent."""
    return shown(None if ratio is None else 100.0 * ratio, f".{digits}f", "%")


def counted(count: int, noun: str) -> str:
    """A number of things: ``1 round``, ``2,000 rounds``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale with its ticks."""

    low: float
    high: float
    begin: float
    """Coordinate of ``low``."""
    end: float
    """Coordinate of ``high``."""
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Coordinate of ``value``, within the axis."""
        share = (value - self.low) / (self.high - self.low)
        return self.begin + min(1.0, max(0.0, share)) * (self.end - self.begin)


def value_axis(
    values: Sequence[float], begin: float, end: float, *, floor: float | None = None, top: float | None = None
) -> Axis:
    """An axis over ``values`` that ends at round numbers.

    Args:
        floor: value that the axis reaches down to.
        top: value that it reaches up to.
    """
    low = min([*values, *([] if floor is None else [floor])], default=0.0)
    high = max([*values, *([] if top is None else [top])], default=1.0)
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size or size < SMALLEST:
        half = 0.5 * (size if size >= SMALLEST else 1.0)
        low, high = low - half, high + half
    step = round_step((high - low) / (MOST_TICKS - 2))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], begin, end, ticks)


def count_axis(first: int, last: int, begin: float, end: float, most: int = 8) -> Axis:
    """An axis over whole numbers, with ticks at round ones. Half a unit is free on both sides."""
    step = max(1, math.ceil(round_step(max(1, last - first) / most)))
    ticks = [first, *range((first // step + 1) * step, last + 1, step)]
    if len(ticks) > 1 and ticks[1] - ticks[0] < 0.6 * step:
        del ticks[1]
    return Axis(first - 0.5, last + 0.5, begin, end, tuple(map(float, ticks)))


def round_step(least: float) -> float:
    """The next round number from ``least`` on: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def tick_form(axis: Axis) -> Callable[[float], str]:
    """Text of the ticks of an axis, all with the same number of digits."""
    step = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))

    def fixed(value: float) -> str:
        return f"{0.0 if abs(value) < step / 2 else value:,.{digits}f}"

    if max(len(fixed(tick)) for tick in axis.ticks) <= TICK_LETTERS:
        return fixed
    return lambda value: "0" if abs(value) < step / 2 else f"{value:.1e}"


def thinned(values: Sequence[tuple[float, float | None]], most: int) -> list[tuple[float, float | None]]:
    """At most about ``most`` points: of every group of neighbors the least and the greatest, in their order."""
    if len(values) <= most:
        return list(values)
    size = math.ceil(len(values) / (most // 2))
    points: list[tuple[float, float | None]] = []
    for begin in range(0, len(values), size):
        group = [(y, x) for x, y in values[begin : begin + size] if y is not None]
        if not group:
            points.append(values[begin])
            continue
        extremes = {min(group), max(group, key=lambda point: (point[0], -point[1]))}
        points += sorted((x, y) for y, x in extremes)
    return points
