"""Intervals as a picture: one row each, with a dot at the mean and a line at a reference."""

from collections.abc import Sequence
from dataclasses import dataclass

from esper_ray.karn.reports.html.charts import label, svg
from esper_ray.karn.reports.html.elements import Markup, joined, tag
from esper_ray.karn.reports.html.numbers import Axis, tick_form, value_axis

WIDTH = 760.0
NAMES = 220.0
"""Width of the names."""
ROW = 26.0
LETTER = 6.5
"""Width of a letter, at most."""


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One named interval."""

    name: str
    mean: float
    low: float
    high: float
    values: Sequence[float] = ()
    """Single values behind it."""


def forest(key: str, title: str, unit: str, rows: Sequence[IntervalRow], reference: float | None = 0.0) -> Markup:
    """The intervals with a title and a text alternative.

    Args:
        key: identifier in the page, of letters and digits.
        unit: quantity and unit of the axis.
        reference: value of the vertical line; ``None`` for none.
    """
    numbers = [number for row in rows for number in (row.mean, row.low, row.high, *row.values)]
    bottom = 8 + ROW * len(rows)
    across = value_axis([*numbers, *([] if reference is None else [reference])], NAMES, WIDTH - 16)
    parts = [tag("title", title, id=f"{key}-t"), tag("desc", _alternative(unit, rows), id=f"{key}-d")]
    form = tick_form(across)
    for tick in across.ticks:
        x = across.at(tick)
        parts += [tag("line", x1=x, y1=4, x2=x, y2=bottom, class_="axis"), label(form(tick), x, bottom + 15, "middle")]
    parts.append(label(unit, (across.begin + across.end) / 2, bottom + 32, "middle"))
    if reference is not None:
        x = across.at(reference)
        parts.append(tag("line", x1=x, y1=2, x2=x, y2=bottom, class_="tick"))
    parts += [_row(row, 8 + ROW * (index + 0.5), across) for index, row in enumerate(rows)]
    picture = svg(joined(parts, "\n"), WIDTH, bottom + 38, f"{key}-t {key}-d")
    return tag("figure", tag("h3", title), tag("div", picture, class_="wide"))


def _row(row: IntervalRow, y: float, across: Axis) -> Markup:
    most = int((NAMES - 10) / LETTER)
    name = row.name if len(row.name) <= most else f"{row.name[: most - 1]}\u2026"
    left, right = across.at(row.low), across.at(row.high)
    values = [tag("circle", cx=across.at(value), cy=y, r=2, class_="fg") for value in row.values]
    whiskers = [tag("line", x1=x, y1=y - 4, x2=x, y2=y + 4, class_="s1") for x in (left, right)]
    line = tag("line", x1=left, y1=y, x2=right, y2=y, class_="s1")
    dot = tag("circle", cx=across.at(row.mean), cy=y, r=4, class_="f1")
    return joined([label(name, NAMES - 10, y + 4, "end", "ink"), *values, line, *whiskers, dot])


def _alternative(unit: str, rows: Sequence[IntervalRow]) -> str:
    parts = [f"{row.name}: {row.mean:+.1f}, from {row.low:+.1f} to {row.high:+.1f}." for row in rows]
    return " ".join([f"{unit}.", *parts])
