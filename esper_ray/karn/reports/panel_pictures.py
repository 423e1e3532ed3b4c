"""Pictures of the dashboard's rows, from the same queries, without Grafana."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from esper_ray.leyline.files.durable import write_file
from esper_ray.nissa.catalogue.panels import ROWS
from esper_ray.nissa.catalogue.shapes import Panel, Query, Row
from esper_ray.nissa.grafana.dashboard import WIDTH, filled
from esper_ray.nissa.grafana.prometheus import Curve, PrometheusApi, PrometheusError

POINTS = 240
"""Maximum number of points of a curve."""
INCHES = 18.0
"""Width of a picture."""
LINE_INCHES = 3.0
DPI = 75
DAY = 86400.0
CURVE_COLOURS = colormaps["tab20"]
LEGEND = 12
"""Maximum number of names in a legend."""


@dataclass(frozen=True, slots=True)
class Window:
    """Time window of a picture, in Unix times."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.end - self.begin

    @property
    def step_s(self) -> float:
        """Seconds between two points of a curve."""
        return max(1.0, self.seconds / POINTS)


NamedCurves = list[tuple[str, Curve]]
"""Curves, each with its name in the legend."""


def draw_rows(api: PrometheusApi, run: str, folder: Path, seconds: float, now: float | None = None) -> list[Path]:
    """One picture for each row of the dashboard, in ``folder``.

    Args:
        seconds: length of the time window, which ends at ``now``.
        now: Unix time; default: the present time.

    Raises:
        PrometheusError: if the server does not answer, or has no such run; the message lists its runs.
    """
    runs = api.label_values("run")
    if run not in runs:
        raise PrometheusError(f"{api.address} has no run {run!r}; its runs: {', '.join(runs) or 'none'}")
    end = time.time() if now is None else now
    paths = []
    for number, row in enumerate(ROWS, 1):
        path = folder / f"{number}-{re.sub('[^a-z]+', '-', row.title.lower())}.png"
        content = BytesIO()
        draw_row(api, run, row, Window(end - seconds, end)).savefig(content, dpi=DPI)
        with Image.open(content) as image:  # lines and letters need few colours
            picture = BytesIO()
            image.convert("RGB").quantize(128).save(picture, "PNG", optimize=True)
        write_file(path, picture.getvalue())
        paths.append(path)
    return paths


def draw_row(api: PrometheusApi, run: str, row: Row, window: Window) -> Figure:
    """The panels of a row side by side, in as many lines as they need."""
    lines = _lines(row.panels)
    figure = Figure(figsize=(INCHES, LINE_INCHES * len(lines) + 0.6), layout="constrained")
    figure.suptitle(row.title, x=0.01, ha="left", fontsize=15)
    grid = figure.add_gridspec(len(lines), WIDTH)
    for number, line in enumerate(lines):
        left = 0
        for panel in line:
            axes = figure.add_subplot(grid[number, left : left + panel.width])
            left += panel.width
            axes.set_title(panel.title, loc="left", fontsize=10)
            _draw(axes, panel, panel_curves(api, run, panel, window), window)
    return figure


def panel_curves(api: PrometheusApi, run: str, panel: Panel, window: Window) -> NamedCurves:
    """Curves of a panel's queries, each with its name in the legend.

    Raises:
        PrometheusError: see :class:`PrometheusApi`.
    """
    named: NamedCurves = []
    span = f"{max(60, round(window.seconds))}s"
    for query in panel.queries:
        expression = filled(query.expression, run, span=span)
        if panel.type in ("timeseries", "state-timeline", "heatmap"):
            curves = api.over(expression, window.begin, window.end, window.step_s)
        else:
            curves = api.at(expression, window.end)
        named += [(legend(query, curve.labels), curve) for curve in curves]
    return named


def legend(query: Query, labels: Mapping[str, str]) -> str:
    """Name of a series: the template of its query with label values."""
    return " ".join(re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), query.legend).split()) or "value"


def format_value(value: float, unit: str) -> str:
    """Short text of a number with its unit."""
    if unit == "percentunit":
        return f"{value:.1%}"
    if unit == "percent":
        return f"{value:.0f} %"
    if unit == "bytes":
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    if unit == "s":
        return _duration(value)
    return f"{value:.4g}" + ("/s" if unit == "ops" else "")


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _lines(panels: Sequence[Panel]) -> list[list[Panel]]:
    lines: list[list[Panel]] = [[]]
    for panel in panels:
        if sum(previous.width for previous in lines[-1]) + panel.width > WIDTH:
            lines.append([])
        lines[-1].append(panel)
    return lines


def _draw(axes: Axes, panel: Panel, curves: NamedCurves, window: Window) -> None:
    if not curves:
        _blank(axes)
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="grey", transform=axes.transAxes)
    elif panel.type == "timeseries":
        _curves(axes, panel, curves, window)
    elif panel.type == "state-timeline":
        _states(axes, curves, window)
    elif panel.type == "bargauge":
        _bars(axes, panel, curves)
    else:
        _numbers(axes, panel, curves)


def _curves(axes: Axes, panel: Panel, curves: NamedCurves, window: Window) -> None:
    if panel.stacked:
        _stack(axes, curves)
    else:
        for name, curve in curves:
            values = [value for _, value in curve.points]
            axes.plot([_time(moment) for moment, _ in curve.points], values, label=name, linewidth=1.3)
    axes.set_xlim(_time(window.begin), _time(window.end))
    _clock(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, panel.unit)))
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=7)
    handles, names = axes.get_legend_handles_labels()
    if set(names) == {"value"}:
        return  # the title names the only curve
    if len(names) > LEGEND:
        names[LEGEND - 1] = f"... {len(names) - LEGEND + 1} more"
    axes.legend(handles[:LEGEND], names[:LEGEND], fontsize=6, loc="best", framealpha=0.6)


def _stack(axes: Axes, curves: NamedCurves) -> None:
    """Stacked areas, negative values downwards."""
    moments = sorted({moment for _, curve in curves for moment, _ in curve.points})
    heights = [[dict(curve.points).get(moment, 0.0) for moment in moments] for _, curve in curves]
    colours = [CURVE_COLOURS(number % CURVE_COLOURS.N) for number in range(len(curves))]
    for sign, names in ((1.0, [name for name, _ in curves]), (-1.0, ())):
        parts = [[sign * max(sign * value, 0.0) for value in row] for row in heights]
        axes.stackplot([_time(moment) for moment in moments], *parts, labels=names, colors=colours, alpha=0.8)


def _states(axes: Axes, curves: NamedCurves, window: Window) -> None:
    """A bar for each interval in which a state is active."""
    names = [name for name, curve in curves if any(value == 1.0 for _, value in curve.points)]
    for name, curve in curves:
        if name in names:
            spans = [(_time(moment), window.step_s / DAY) for moment, value in curve.points if value == 1.0]
            axes.broken_barh(spans, (names.index(name) - 0.35, 0.7))
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlim(_time(window.begin), _time(window.end))
    _clock(axes)
    axes.tick_params(labelsize=7)


def _bars(axes: Axes, panel: Panel, curves: NamedCurves) -> None:
    ordered = sorted(curves, key=lambda named: named[1].points[-1][1])[-LEGEND:]
    values = [curve.points[-1][1] for _, curve in ordered]
    axes.barh(range(len(ordered)), values, height=0.4, color=[_colour(panel, value) for value in values])
    for place, (name, curve) in enumerate(ordered):
        text = f"{name}: {format_value(curve.points[-1][1], panel.unit)}"
        axes.text(min(0.0, *values, 0.0), place + 0.24, text, va="bottom", fontsize=7)
    axes.set_ylim(-0.5, max(len(ordered), 4) - 0.2)
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    axes.spines[:].set_color("lightgrey")


def _numbers(axes: Axes, panel: Panel, curves: NamedCurves) -> None:
    _blank(axes)
    for place, (name, curve) in enumerate(curves[:4]):
        height = 1.0 - (place + 0.5) / min(len(curves), 4)
        value = curve.points[-1][1]
        size = 22 if len(curves) == 1 else 13
        axes.text(
            0.5,
            height,
            format_value(value, panel.unit),
            ha="center",
            va="bottom",
            fontsize=size,
            color=_colour(panel, value),
        )
        axes.text(0.5, height - 0.02, "" if name == "value" else name, ha="center", va="top", fontsize=7, color="grey")


def _blank(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("lightgrey")


def _colour(panel: Panel, value: float) -> str:
    """Colour of the highest threshold step that ``value`` reaches."""
    step_colour = "tab:blue"
    for begin, colour in panel.steps:
        if begin is None or value >= begin:
            step_colour = {"yellow": "goldenrod"}.get(colour, colour)
    return step_colour


def _time(moment: float) -> float:
    """Unix time in matplotlib's days."""
    return moment / DAY


def _clock(axes: Axes) -> None:
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=6))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]
