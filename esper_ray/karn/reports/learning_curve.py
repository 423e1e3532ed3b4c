"""Learning curves of evaluated policies by round (``learning.png``), with the other policies as lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from esper_ray.karn.reports.evaluation_report import COLOURS, FAINT, INK
from esper_ray.karn.reports.picture_files import write_picture
from esper_ray.leyline.results.evaluation import Summary
from esper_ray.nissa.runs.run_directory import RunDirectory

WINDOW = 5
"""Number of rounds in the moving average."""


def objective_by_round(run: RunDirectory, host_parameters: int, price_pp: float) -> list[float]:
    """Mean objective of each round's training episodes, in percentage points, with exploration.

    Args:
        price_pp: price of one parameter, in percentage points.
    """
    return [
        100.0 * float(row["val_accuracy_ratio"]) - price_pp * (float(row["growth_ratio"]) - 1.0) * host_parameters
        for row in run.rounds("val_accuracy_ratio", "growth_ratio")
    ]


def draw_learning(path: Path, curves: Mapping[str, Sequence[float]], summaries: Sequence[Summary], title: str) -> Path:
    """Draw the picture; returns ``path``.

    Args:
        curves: objective by round of each trained policy.
        summaries: summaries of all evaluated policies; those without a curve are drawn as lines with intervals.
    """
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    axes = figure.subplots()
    colours = {s.policy: COLOURS[index % len(COLOURS)] for index, s in enumerate(summaries)}
    longest = max(len(curve) for curve in curves.values())
    for label, curve in curves.items():
        rounds = range(1, len(curve) + 1)
        axes.plot(rounds, curve, color=colours[label], linewidth=0.8, alpha=0.5)
        axes.plot(rounds, smooth(curve), color=colours[label], linewidth=2.2, label=f"{label}, training")
    for summary in summaries:
        mean, colour = summary.objective_pp, colours[summary.policy]
        if summary.policy in curves:
            last = len(curves[summary.policy])
            whiskers = [[mean.mean - mean.low], [mean.high - mean.mean]]
            axes.errorbar(last + 0.5, mean.mean, whiskers, color=colour, marker="o", capsize=3, zorder=3)
            continue
        axes.axhline(mean.mean, color=colour, linewidth=1.2, linestyle="--", label=summary.policy)
        axes.axhspan(mean.low, mean.high, color=colour, alpha=0.1, linewidth=0)
    axes.set_xlim(1, longest + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round")
    axes.set_ylabel("objective, points")
    axes.set_title(
        f"mean of each round and of {WINDOW} rounds; dot and dashed lines: evaluation with 95 % intervals",
        loc="left",
        fontsize=9,
    )
    axes.grid(color=FAINT, linewidth=0.5)
    axes.legend(fontsize=8, frameon=True, framealpha=0.8, edgecolor="none", loc="best")
    axes.spines[["top", "right"]].set_visible(False)
    write_picture(path, figure)
    return path


def smooth(curve: Sequence[float], window: int = WINDOW) -> list[float]:
    """Moving average over each value and up to ``window - 1`` values before it."""
    means = []
    for index in range(len(curve)):
        recent = curve[max(0, index + 1 - window) : index + 1]
        means.append(sum(recent) / len(recent))
    return means
