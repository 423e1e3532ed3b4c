"""Files of a sweep: ``sweep.csv``, ``ranking.csv``, ``ranking.md`` and ``sweep.png``."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from esper_ray.karn.reports.evaluation_report import COLOURS, FAINT, INK
from esper_ray.karn.reports.picture_files import write_picture
from esper_ray.leyline.files.durable import write_file
from esper_ray.leyline.results.sweep import RankedChoice, TrialResult
from esper_ray.nissa.runs.sweep_directory import MEANS

MOST_CURVES = len(COLOURS)
"""Maximum number of choices with a curve, from the best on."""
HEADINGS = ("rank", "choice", "trials", "score", "95 % interval", "spread", "best in", "stopped")


def choice_name(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Name of a choice: the values of ``keys``."""
    return ", ".join(
        str(settings[key]) if key == "reward.mode" else f"{key.rpartition('.')[2]}={_value(settings[key])}"
        for key in keys
    )


def write_sweep(folder: Path, results: Sequence[TrialResult]) -> Path:
    """Write ``sweep.csv``, one line per trial; returns its path. Equal sweeps have equal files, interrupted or not."""
    path = folder / "sweep.csv"
    keys = list(results[0].settings)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["trial", *keys, "status", "rounds", "score_pp", *MEANS, "rollbacks", "env_steps", "generation", "run"]
    )
    for s in results:
        score = "" if s.score_pp is None else s.score_pp
        means = [s.means.get(name, "") for name in MEANS]
        row = [s.trial, *(s.settings[key] for key in keys), s.status, s.round_index, score, *means]
        writer.writerow([*row, s.rollbacks, s.env_steps, s.generation, s.run])
    write_file(path, file.getvalue())
    return path


def write_ranking(folder: Path, rankings: Mapping[str, Sequence[RankedChoice]]) -> Path:
    """Write ``ranking.csv``, one line per ranking and choice; returns its path."""
    path = folder / "ranking.csv"
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ["score_pp", "score_pp_low", "score_pp_high", "spread_pp", "best_share", "stopped"]
    writer.writerow(["ranking", "rank", "choice", "trials", *names])
    for title, ranked in rankings.items():
        for rank, r in enumerate(ranked, 1):
            numbers = [r.score_pp.mean, r.score_pp.low, r.score_pp.high, r.spread_pp, r.best_share, r.stopped]
            writer.writerow([title, rank, r.choice, r.trials, *numbers])
    write_file(path, file.getvalue())
    return path


def table_rows(ranked: Sequence[RankedChoice]) -> list[tuple[str, ...]]:
    """Rows of a ranking as text, in the order of :data:`HEADINGS`."""
    return [
        (
            str(rank),
            r.choice,
            str(r.trials),
            f"{r.score_pp.mean:.1f}",
            f"[{r.score_pp.low:.1f}, {r.score_pp.high:.1f}]" if r.trials > 1 else "",
            f"{r.spread_pp:.1f}" if r.trials > 1 else "",
            f"{r.best_share:.0%}",
            str(r.stopped) if r.stopped else "",
        )
        for rank, r in enumerate(ranked, 1)
    ]


def write_markdown(
    folder: Path, rankings: Mapping[str, Sequence[RankedChoice]], title: str, notes: Sequence[str]
) -> Path:
    """Write ``ranking.md``: the rankings as tables, and their notes; returns its path."""
    lines = [f"# {title}", ""]
    for name, ranked in rankings.items():
        lines += [f"## {name}", "", f"| {' | '.join(HEADINGS)} |", "|---:|---|---:|---:|---:|---:|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in table_rows(ranked)] + [""]
    lines += [*notes, "", "![Objective by round, and the ranking](sweep.png)"]
    path = folder / "ranking.md"
    write_file(path, "\n".join(lines) + "\n")
    return path


def draw_sweep(
    folder: Path, groups: Mapping[str, Sequence[TrialResult]], ranked: Sequence[RankedChoice], title: str
) -> Path:
    """Draw ``sweep.png``: learning curves on the left, scores on the right; returns its path.

    Args:
        groups: trials by choice.
        ranked: the choices, best first.
    """
    path = folder / "sweep.png"
    figure = Figure(figsize=(12, max(4.2, 1.8 + 0.36 * len(ranked))), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1.0])
    colours = {r.choice: COLOURS[index] if index < MOST_CURVES else FAINT for index, r in enumerate(ranked)}
    for r in reversed(ranked[:MOST_CURVES]):
        _curve(left, [s.curve_pp for s in groups[r.choice] if s.curve_pp], colours[r.choice])
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("round", fontsize=8, color=INK)
    left.set_ylabel("objective, points", fontsize=8, color=INK)
    best = f"the {MOST_CURVES} best choices" if len(ranked) > MOST_CURVES else "every choice"
    _style(left, f"objective by round: mean of the trials of {best}, single trials thin", "y")
    _ranks(right, groups, ranked, colours)
    write_picture(path, figure)
    return path


def _curve(axes: Axes, curves: Sequence[Sequence[float]], colour: str) -> None:
    """Curve of each trial, and their mean up to the end of the shortest."""
    shortest = min(len(curve) for curve in curves)
    for curve in curves:
        axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.6, alpha=0.45)
    mean = [sum(curve[index] for curve in curves) / len(curves) for index in range(shortest)]
    axes.plot(range(1, shortest + 1), mean, color=colour, linewidth=2.2, marker="o" if shortest == 1 else None)


def _ranks(
    axes: Axes, groups: Mapping[str, Sequence[TrialResult]], ranked: Sequence[RankedChoice], colours: Mapping[str, str]
) -> None:
    for row, r in enumerate(ranked):
        colour = colours[r.choice]
        axes.plot(
            [r.score_pp.low, r.score_pp.high], [row, row], color=colour, linewidth=7, alpha=0.35, solid_capstyle="butt"
        )
        scores = [s.score_pp for s in groups[r.choice] if s.score_pp is not None]
        axes.plot(scores, [row] * len(scores), linestyle="none", marker="o", markersize=4, color=colour, alpha=0.8)
        axes.plot([r.score_pp.mean], [row], marker="|", markersize=16, markeredgewidth=2.5, color=INK)
    axes.set_yticks(range(len(ranked)), [r.choice for r in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlabel("score, points", fontsize=8, color=INK)
    _style(axes, "score: interquartile mean, 95 % interval, trials", "x")


def _style(axes: Axes, title: str, grid: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="y" if grid == "y" else "x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
