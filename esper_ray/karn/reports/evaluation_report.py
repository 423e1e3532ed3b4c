"""Files of an evaluation: ``scores.csv``, ``summary.csv``, ``comparison.md``, ``comparison.png``."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import ScaledTranslation

from esper_ray.karn.reports.picture_files import write_picture
from esper_ray.leyline.files.durable import write_file
from esper_ray.leyline.policy import stored_name
from esper_ray.leyline.results.evaluation import PairedComparison, Score, Summary

ASIDE_INCHES = 0.12
"""Offset in inches between the markers of two policies of equal cost."""
LEGEND_COLUMNS = 4
INK, FAINT = "#22333b", "#c7d3dd"
COLOURS = (
    *("#3bb273", "#4d9de0", "#8e6bbf", "#f2c14e", "#d1495b", "#7d8597"),
    *("#b5651d", "#1d3557", "#e58fb1", "#9bbb1f", "#5b3a29", "#00b4d8"),
)
MARKERS = "osD"
"""Marker of the first policies, and of those that have the same colours again."""
COLUMNS = (
    "policy",
    "test %",
    "test gain",
    "objective",
    "objective gain",
    "parameters",
    "train GFLOP",
    "GFLOP to find",
    "spread",
    "rollbacks",
    "fossils",
    "",
)
"""Headings of the table; the last column marks policies on the frontier."""
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Headings and rows; cells may have several lines."""


def table_rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """The table as text: one row per policy, cells in the order of :data:`COLUMNS`."""
    return [
        (
            s.policy,
            str(s.test_accuracy_pp),
            "control" if s.test_gain_pp is None else s.test_gain_pp.signed,
            str(s.objective_pp),
            "control" if s.objective_gain_pp is None else s.objective_gain_pp.signed,
            f"{s.parameters:,.0f}",
            _gflops(s.train_gflops),
            "" if s.finding_gflops is None else _gflops(s.finding_gflops),
            f"{s.spread_pp:.1f}",
            str(s.rollbacks),
            f"{s.fossilized:.1f}",
            "frontier" if s.on_frontier else "",
        )
        for s in summaries
    ]


def _gflops(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def layouts(summaries: Sequence[Summary]) -> list[Table]:
    """Layouts of the table, widest first: single lines, intervals below their means, dense."""
    rows = table_rows(summaries)
    stacked = [
        (_below(row[0], row[-1]), *(cell.replace(" [", "\n[") for cell in row[1:6]), _below(*row[6:8]), *row[8:-1])
        for row in rows
    ]
    dense = [(*row[:3], row[4], _below(row[5], row[6]), _below(row[7], row[8])) for row in stacked]
    costs = "train GFLOP\nto find"
    headings = tuple(name.replace(" ", "\n") for name in (*COLUMNS[:6], costs, *COLUMNS[8:-1]))
    few = ("policy", "test %", "test\ngain", "objective\ngain", f"parameters\n{costs}", "spread\nrollbacks")
    return [(COLUMNS, rows), (headings, stacked), (few, dense)]


def write_scores(folder: Path, scores: Sequence[Score]) -> Path:
    """Write ``scores.csv``, one line per episode; returns its path."""
    path = folder / "scores.csv"
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([stored_name(f.name) for f in fields(Score)])
    for score in scores:
        values = asdict(score) | {"seeds_grown": " ".join(f"{slot}:{b}" for slot, b in score.seeds_grown)}
        writer.writerow(["" if value is None else value for value in values.values()])
    write_file(path, file.getvalue())
    return path


def write_summary(folder: Path, summaries: Sequence[Summary]) -> Path:
    """Write ``summary.csv``, one line per policy with three columns per interval; returns its path."""
    path = folder / "summary.csv"
    rows = [_flat(summary) for summary in summaries]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, file.getvalue())
    return path


def write_markdown(
    folder: Path,
    summaries: Sequence[Summary],
    comparisons: Sequence[PairedComparison],
    title: str,
    notes: Sequence[str],
) -> Path:
    """Write ``comparison.md``: the table, its notes, and the paired comparisons; returns its path."""
    path = folder / "comparison.md"
    lines = [
        f"# {title}",
        "",
        *(line for note in notes for line in (note, "")),
        f"| {' | '.join(COLUMNS)} |",
        "|---|" + "---:|" * (len(COLUMNS) - 2) + "---|",
    ]
    lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in table_rows(summaries)]
    if comparisons:
        lines += ["", f"| {comparisons[0].policy} over | test gain | objective gain |", "|---|---:|---:|"]
        for comparison in comparisons:
            cells = (comparison.over, *_gain_texts(comparison))
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    write_file(path, "\n".join([*lines, "", "![comparison](comparison.png)", ""]))
    return path


def comparison_line(comparison: PairedComparison) -> str:
    """A paired comparison as one line of text."""
    test, objective = _gain_texts(comparison)
    return f"gain of {comparison.policy} over {comparison.over}: test {test}, objective {objective}"


def _gain_texts(comparison: PairedComparison) -> tuple[str, str]:
    return comparison.test_gain_pp.signed, comparison.objective_gain_pp.signed


def draw_comparison(folder: Path, scores: Sequence[Score], summaries: Sequence[Summary], title: str) -> Path:
    """Draw ``comparison.png``: quality against cost, and gains over the control; returns its path."""
    figure = Figure(figsize=(12, max(5.2, 0.4 * len(summaries))), layout="constrained")
    figure.suptitle(_plain(title), x=0.01, ha="left", fontsize=11, color=INK)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    _frontier(left, scores, summaries)
    _gains(right, summaries)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, handlelength=1.0, ncols=LEGEND_COLUMNS)
    path = folder / "comparison.png"
    write_picture(path, figure)
    return path


def _frontier(axes: Axes, scores: Sequence[Score], summaries: Sequence[Summary]) -> None:
    axes.set_xscale("log")
    ringed = _best_for_size(summaries)
    costs = [summary.parameters for summary in summaries]
    for index, (colour, summary) in enumerate(zip(_colours(len(summaries)), summaries, strict=True)):
        own = [score for score in scores if score.policy == summary.policy]
        axes.scatter(
            [s.parameters for s in own], [s.test_accuracy_pp for s in own], s=14, color=colour, alpha=0.5, linewidth=0
        )
        mean = summary.test_accuracy_pp
        hidden = sum(_overlap(summary, earlier) for earlier in summaries[:index])
        aside = axes.transData + ScaledTranslation(hidden * ASIDE_INCHES, 0.0, axes.figure.dpi_scale_trans)
        whiskers = [[mean.mean - mean.low], [mean.high - mean.mean]]
        axes.errorbar(
            summary.parameters, mean.mean, whiskers, fmt="none", color=colour, capsize=3, linewidth=1.5, transform=aside
        )
        axes.plot(
            [summary.parameters],
            [mean.mean],
            color=colour,
            linestyle="none",
            marker=MARKERS[index // len(COLOURS) % len(MARKERS)],
            markersize=8,
            markeredgecolor=INK if summary.policy in ringed else colour,
            markeredgewidth=1.5,
            label=_legend(summary),
            transform=aside,
            zorder=3,
        )
    axes.xaxis.set_major_formatter(_thousands)
    axes.xaxis.set_minor_formatter(FuncFormatter(_thousands) if max(costs) < 10 * min(costs) else NullFormatter())
    axes.set_xlabel("parameters of the final network")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("episodes, means with 95 % intervals; ringed: none is smaller and better", loc="left", fontsize=9)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _best_for_size(summaries: Sequence[Summary]) -> set[str]:
    """Policies of the frontier that is drawn: means of test accuracy and parameters."""
    points = {s.policy: (s.test_accuracy_pp.mean, -s.parameters) for s in summaries}
    return {
        name
        for name, point in points.items()
        if not any(rival != point and rival[0] >= point[0] and rival[1] >= point[1] for rival in points.values())
    }


def _thousands(value: float, _position: float) -> str:
    """Label of a tick, empty where labels would overlap."""
    leading = value / 10 ** math.floor(math.log10(value))
    return f"{value:,.0f}" if round(leading) in (1, 2, 3, 5) else ""


def _overlap(a: Summary, b: Summary) -> bool:
    """Whether the markers of two policies overlap."""
    first, second = a.test_accuracy_pp, b.test_accuracy_pp
    return abs(b.parameters / a.parameters - 1.0) < 0.02 and first.low <= second.high and second.low <= first.high


def _legend(summary: Summary) -> str:
    rollbacks = f", rollbacks {summary.rollbacks}" if summary.rollbacks else ""
    return f"{_plain(summary.policy)} (spread {summary.spread_pp:.1f}{rollbacks})"


def _plain(label: str) -> str:
    """A label that matplotlib does not parse as a formula."""
    return label.replace("$", r"\$")


def _gains(axes: Axes, summaries: Sequence[Summary]) -> None:
    control = next(s.policy for s in summaries if s.objective_gain_pp is None)
    colours = dict(zip((s.policy for s in summaries), _colours(len(summaries)), strict=True))
    gains = [(s.policy, s.objective_gain_pp) for s in reversed(summaries) if s.objective_gain_pp is not None]
    for row, (policy, gain) in enumerate(gains):
        axes.plot([gain.low, gain.high], [row, row], color=colours[policy], linewidth=3, solid_capstyle="butt")
        axes.scatter(gain.mean, row, s=45, color=colours[policy], zorder=3)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(gains)), [_plain(policy) for policy, _ in gains])
    axes.set_xlabel("points of the objective, paired by seed")
    axes.set_title(f"gain over {_plain(control)}, with 95 % interval", loc="left", fontsize=9)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _below(text: str, second: str) -> str:
    return "\n".join(filter(None, (text, second)))


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _flat(summary: Summary) -> dict[str, object]:
    row: dict[str, object] = {}
    for field in fields(Summary):
        value = getattr(summary, field.name)
        if "Interval" in str(field.type):
            for part in ("mean", "low", "high"):
                row[f"{field.name}_{part}"] = "" if value is None else getattr(value, part)
        else:
            row[stored_name(field.name)] = "" if value is None else value
    return row
