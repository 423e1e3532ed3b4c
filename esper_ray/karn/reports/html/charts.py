"""Charts over rounds as inline SVG.

Each has a text alternative, a key and a table of its numbers. A chart is a function of records. Text stands outside the
plot or in rows of its own, so that nothing overlaps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from esper_ray.karn.reports.html.elements import Markup, coordinate, details, joined, table, tag
from esper_ray.karn.reports.html.numbers import Axis, count_axis, finite, thinned, tick_form, value_axis
from esper_ray.karn.reports.html.style import DASHES

WIDTH, HEIGHT = 560.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 10.0, 12.0, 34.0
ROW, GAP = 14.0, 6.0
"""Height of a row of marks below the plot, and of the space above the first."""
MOST_POINTS = 600
"""Points of a curve; more are thinned to the least and the greatest of their neighbors."""
CHART_ROWS = 200
"""Rows of a table; of more, every n-th is shown."""
GRAY = "g"
"""Style of values without meaning."""

ChartPoints = Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Series:
    """A curve. It is interrupted where a value is missing."""

    name: str
    points: ChartPoints
    color: str = "1"
    """Number of its color, or ``GRAY``."""
    dash: int = 0
    """Number of its line style."""
    form: str = ".3g"
    """Format of its numbers."""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """An area between two curves."""

    name: str
    points: Sequence[tuple[float, float, float]]
    """Position, lower and upper value."""
    color: str = "1"


@dataclass(frozen=True, slots=True)
class ChartLevel:
    """A horizontal line."""

    name: str
    value: float
    color: str = "2"
    dash: int = 1


@dataclass(frozen=True, slots=True)
class Marks:
    """A row of marks below the plot, with a letter in front."""

    letter: str
    name: str
    spans: Sequence[tuple[float, float]]
    """First and last position of each mark."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart over rounds, counted from 1."""

    key: str
    """Identifier in the page, of letters and digits."""
    title: str
    unit: str
    """Quantity and unit of the vertical axis."""
    series: Sequence[Series]
    bands: Sequence[Band] = ()
    levels: Sequence[ChartLevel] = ()
    marks: Sequence[Marks] = ()
    floor: float | None = None
    """Value that the vertical axis reaches down to."""
    top: float | None = None
    """Value that the vertical axis reaches up to."""
    note: str = ""
    """Sentence below the chart."""
    width: float = WIDTH
    height: float = HEIGHT
    across: str = "round"
    """Quantity of the horizontal axis."""
    first: int = 1
    """Least position."""
    headings: Sequence[str] = field(default_factory=tuple)
    """Headings of the further columns of the table."""
    cells: Sequence[Sequence[str]] = ()
    """Further columns of the table, one sequence for each position."""

    @property
    def marks_height(self) -> float:
        """Height of the rows of marks."""
        return ROW * len(self.marks) + GAP if self.marks else 0.0

    @property
    def last(self) -> int:
        """Greatest position."""
        return max([self.first, *(int(x) for series in self.series for x, _ in series.points)])


def figure(chart: Chart) -> Markup:
    """The chart with title, key, note and table."""
    if not any(finite(y for _, y in series.points) for series in chart.series):
        nothing = tag("p", "There are no values.", class_="soft")
        return tag("figure", tag("h3", chart.title), nothing)
    note = tag("figcaption", chart.note) if chart.note else Markup()
    return tag("figure", tag("h3", chart.title), picture(chart), key(chart), note, numbers(chart))


def picture(chart: Chart) -> Markup:
    """The chart alone, as SVG."""
    height = chart.height + chart.marks_height
    across = count_axis(chart.first, chart.last, LEFT, chart.width - RIGHT, most=max(2, int(chart.width / 70)))
    up = value_axis(_values(chart), chart.height - BOTTOM, TOP, floor=chart.floor, top=chart.top)
    parts = [
        tag("title", chart.title, id=f"{chart.key}-t"),
        tag("desc", alternative(chart), id=f"{chart.key}-d"),
        _frame(chart, across, up, height),
        *(_band(band, across, up) for band in chart.bands),
        *(_level(level, across, up) for level in chart.levels),
        *(curve(series, across, up) for series in chart.series),
        *(_marks(row, marks, chart, across) for row, marks in enumerate(chart.marks)),
    ]
    return svg(joined(parts, "\n"), chart.width, height, f"{chart.key}-t {chart.key}-d")


def svg(content: Markup, width: float, height: float, labelled_by: str) -> Markup:
    """A picture that is scaled to the width of its place."""
    box = f"0 0 {coordinate(width)} {coordinate(height)}"
    return tag("svg", content, class_="chart", viewBox=box, role="img", aria_labelledby=labelled_by)


def label(words: str, x: float, y: float, anchor: str = "start", class_: str | None = None) -> Markup:
    """Text in a picture. ``y`` is its base line."""
    return tag("text", words, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)


def curve(series: Series, across: Axis, up: Axis) -> Markup:
    """The lines of a series; a single point between gaps is a dot."""
    pieces: list[list[str]] = [[]]
    for x, y in thinned(series.points, MOST_POINTS):
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{coordinate(across.at(x))},{coordinate(up.at(y))}")
    dash = DASHES[series.dash] or None
    lines = [
        tag("polyline", points=" ".join(piece), class_=f"s{series.color}", stroke_dasharray=dash)
        for piece in pieces
        if len(piece) > 1
    ]
    dots = [piece[0].split(",") for piece in pieces if len(piece) == 1]
    circles = [tag("circle", cx=x, cy=y, r=2.5, class_=f"f{series.color}") for x, y in dots]
    return joined([*lines, *circles])


def alternative(chart: Chart) -> str:
    """What the chart shows, in sentences."""
    parts = [f"{chart.unit} by {chart.across}."]
    for series in chart.series:
        points = [(x, y) for x, y in series.points if y is not None]
        if not points:
            continue
        (first_x, first), (last_x, last) = points[0], points[-1]
        high_x, high = max(points, key=lambda point: (point[1], -point[0]))
        low_x, low = min(points, key=lambda point: (point[1], point[0]))
        values = [f"{value:{series.form}}{f' {series.unit}' if series.unit else ''}" for value in (first, last)]
        parts.append(
            f"{series.name}: {values[0]} in {chart.across} {first_x:g}, {values[1]} in {chart.across} {last_x:g}, "
            f"lowest {low:{series.form}} in {low_x:g}, highest {high:{series.form}} in {high_x:g}."
        )
    parts += [f"{level.name}: {level.value:.3g}." for level in chart.levels]
    parts += [f"{marks.name}: {len(marks.spans)}." for marks in chart.marks]
    return " ".join(parts)


def key(chart: Chart) -> Markup:
    """The names of curves, bands, lines and marks with their samples."""
    entries = [
        *((f"s{s.color}", DASHES[s.dash], s.name) for s in chart.series if finite(y for _, y in s.points)),
        *((f"s{level.color}", DASHES[level.dash], level.name) for level in chart.levels),
    ]
    items = [
        _sample(tag("line", x1=0, y1=6, x2=28, y2=6, class_=style, stroke_dasharray=dash or None), name)
        for style, dash, name in entries
    ]
    items += [_sample(tag("rect", width=28, height=12, class_=f"f{b.color} band"), b.name) for b in chart.bands]
    items += [tag("li", tag("b", marks.letter), marks.name) for marks in chart.marks]
    return tag("ul", *items, class_="key")


def _sample(shape: Markup, name: str) -> Markup:
    return tag("li", tag("svg", shape, width=28, height=12, aria_hidden="true"), name)


def numbers(chart: Chart) -> Markup:
    """The table of the numbers of a chart, shown on demand."""
    positions = sorted({x for series in chart.series for x, _ in series.points})
    step = max(1, -(-len(positions) // CHART_ROWS))
    columns = [dict(series.points) for series in chart.series]
    rows = []
    for index, x in enumerate(positions):
        if index % step and index != len(positions) - 1:
            continue
        values = [column.get(x) for column in columns]
        cells = ["-" if v is None else f"{v:{s.form}}" for v, s in zip(values, chart.series, strict=True)]
        extra = list(chart.cells[index]) if index < len(chart.cells) else ["-"] * len(chart.headings)
        rows.append([f"{x:g}", *cells, *extra])
    headings = [f"{s.name}{f', {s.unit}' if s.unit else ''}" for s in chart.series]
    title = "Numbers" if step == 1 else f"Numbers, every {step}th {chart.across}"
    return details(title, table([chart.across, *headings, *chart.headings], rows, numbers_from=0))


def _values(chart: Chart) -> list[float]:
    curves = [y for series in chart.series for _, y in series.points]
    bands = [y for band in chart.bands for _, low, high in band.points for y in (low, high)]
    return finite([*curves, *bands, *(level.value for level in chart.levels)])


def _frame(chart: Chart, across: Axis, up: Axis, height: float) -> Markup:
    """Grid, ticks and names of both axes."""
    right, bottom = chart.width - RIGHT, chart.height - BOTTOM
    form = tick_form(up)
    parts = []
    for value in up.ticks:
        y = up.at(value)
        parts += [tag("line", x1=LEFT, y1=y, x2=right, y2=y, class_="axis"), label(form(value), LEFT - 6, y + 4, "end")]
    for value in across.ticks:
        parts.append(label(f"{value:,.0f}", across.at(value), bottom + chart.marks_height + 15, "middle"))
    parts.append(label(chart.across, (LEFT + right) / 2, height - 4, "middle"))
    return joined(parts)


def _band(band: Band, across: Axis, up: Axis) -> Markup:
    lower = thinned([(x, low) for x, low, _ in band.points], MOST_POINTS)
    upper = thinned([(x, high) for x, _, high in band.points], MOST_POINTS)
    corners = [(x, y) for x, y in (*upper, *reversed(lower)) if y is not None]
    if not corners:
        return Markup()
    path = " L".join(f"{coordinate(across.at(x))} {coordinate(up.at(y))}" for x, y in corners)
    return tag("path", d=f"M{path}Z", class_=f"f{band.color} band")


def _level(level: ChartLevel, across: Axis, up: Axis) -> Markup:
    y = up.at(level.value)
    dash = DASHES[level.dash] or None
    return tag("line", x1=across.begin, y1=y, x2=across.end, y2=y, class_=f"s{level.color}", stroke_dasharray=dash)


def _marks(row: int, marks: Marks, chart: Chart, across: Axis) -> Markup:
    top = chart.height - BOTTOM + GAP + ROW * row + 2
    parts = [label(marks.letter, LEFT - 6, top + ROW - 4, "end", "ink")]
    for first, last in marks.spans:
        left, right = across.at(first - 0.4), across.at(last + 0.4)
        middle, y = (left + right) / 2, top + ROW / 2
        if right - left < 2:
            left, right = middle - 1, middle + 1
        parts.append(tag("line", x1=left, y1=y, x2=right, y2=y, class_="tick"))
        parts.append(tag("line", x1=middle, y1=y - 4, x2=middle, y2=y + 4, class_="tick"))
    return joined(parts)
