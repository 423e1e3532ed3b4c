"""What an evaluation leaves behind: ``scores.csv``, ``summary.csv``, ``comparison.md``, ``comparison.png``."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esper_ray.leyline.scores import Interval, Score, Summary

INK, FAINT = "#22333b", "#c7d3dd"
COLOURS = ("#3bb273", "#4d9de0", "#8e6bbf", "#f2c14e", "#d1495b", "#7d8597", "#2a9d8f", "#b5651d")
COLUMNS = (
    "policy",
    "test %",
    "objective",
    "vs control",
    "parameters",
    "train GFLOP",
    "spread",
    "rollbacks",
    "kept",
    "",
)
"""Headings of the table; the last column marks the frontier."""


def table_rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """The table for people: one row a policy, texts in the order of :data:`COLUMNS`."""
    return [
        (
            s.policy,
            _within(s.test_accuracy_pp),
            _within(s.objective_pp),
            "control" if s.objective_gain_pp is None else str(s.objective_gain_pp),
            f"{s.parameters:,.0f}",
            f"{s.train_gflops:.2f}",
            f"{s.spread_pp:.1f}",
            str(s.rollbacks),
            f"{s.fossilised:.1f}",
            "frontier" if s.on_frontier else "",
        )
        for s in summaries
    ]


def write_scores(folder: Path, scores: Sequence[Score]) -> Path:
    """``scores.csv``: one line an episode."""
    path = folder / "scores.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(Score)])
        for score in scores:
            values = asdict(score) | {"seeds_grown": " ".join(f"{slot}:{b}" for slot, b in score.seeds_grown)}
            writer.writerow(["" if value is None else value for value in values.values()])
    return path


def write_summary(folder: Path, summaries: Sequence[Summary]) -> Path:
    """``summary.csv``: one line a policy; an interval takes three columns."""
    path = folder / "summary.csv"
    rows = [_flat(summary) for summary in summaries]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_markdown(folder: Path, summaries: Sequence[Summary], title: str, notes: Sequence[str]) -> Path:
    """``comparison.md``: the table with what one needs to read it."""
    path = folder / "comparison.md"
    lines = [
        f"# {title}",
        "",
        *notes,
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|" + "---:|" * (len(COLUMNS) - 2) + "---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in table_rows(summaries)]
    path.write_text("\n".join([*lines, "", "![comparison](comparison.png)", ""]))
    return path


def draw_comparison(folder: Path, scores: Sequence[Score], summaries: Sequence[Summary], title: str) -> Path:
    """``comparison.png``: quality against cost, and what each policy gains over the control."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    _frontier(left, scores, summaries)
    _gains(right, summaries)
    path = folder / "comparison.png"
    figure.savefig(path, dpi=120)
    return path


def _frontier(axes: Axes, scores: Sequence[Score], summaries: Sequence[Summary]) -> None:
    for colour, summary in zip(_colours(len(summaries)), summaries, strict=True):
        mine = [score for score in scores if score.policy == summary.policy]
        axes.scatter(
            [s.parameters for s in mine], [s.test_accuracy_pp for s in mine], s=14, color=colour, alpha=0.3, linewidth=0
        )
        mean = summary.test_accuracy_pp
        whiskers = [[mean.mean - mean.low], [mean.high - mean.mean]]
        edge = INK if summary.on_frontier else colour
        axes.errorbar(summary.parameters, mean.mean, whiskers, color=colour, capsize=3, linewidth=1.5)
        axes.scatter(
            summary.parameters,
            mean.mean,
            s=70,
            color=colour,
            edgecolor=edge,
            linewidth=1.5,
            label=summary.policy,
            zorder=3,
        )
    axes.set_xscale("log")
    axes.set_xlabel("parameters of the final network")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("quality and cost: episodes, means with 95 % intervals; frontier ringed", loc="left", fontsize=9)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.legend(fontsize=8, frameon=False, loc="best")
    axes.spines[["top", "right"]].set_visible(False)


def _gains(axes: Axes, summaries: Sequence[Summary]) -> None:
    control = next(s.policy for s in summaries if s.objective_gain_pp is None)
    colours = dict(zip((s.policy for s in summaries), _colours(len(summaries)), strict=True))
    others = [(s.policy, s.objective_gain_pp) for s in reversed(summaries) if s.objective_gain_pp is not None]
    for row, (policy, gain) in enumerate(others):
        axes.plot([gain.low, gain.high], [row, row], color=colours[policy], linewidth=3, solid_capstyle="butt")
        axes.scatter(gain.mean, row, s=45, color=colours[policy], zorder=3)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(others)), [policy for policy, _ in others])
    axes.set_xlabel("points of the objective, paired by seed")
    axes.set_title(f"gain over {control}, with 95 % interval", loc="left", fontsize=9)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _within(interval: Interval) -> str:
    return f"{interval.mean:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def _flat(summary: Summary) -> dict[str, object]:
    row: dict[str, object] = {}
    for field in fields(Summary):
        value = getattr(summary, field.name)
        if "Interval" in str(field.type):
            for part in ("mean", "low", "high"):
                row[f"{field.name}_{part}"] = "" if value is None else getattr(value, part)
        else:
            row[field.name] = "" if value is None else value
    return row
