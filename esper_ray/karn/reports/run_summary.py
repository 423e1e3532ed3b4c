"""Picture of a run (``summary.png``), by round, with its best episode."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from esper_ray.karn.reports.picture_files import write_picture
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.palette import INK, STAGE_COLOURS
from esper_ray.leyline.slots import parse_slot_id
from esper_ray.leyline.stages import AMPLIFIED, Stage
from esper_ray.nissa.runs.observer import RunContext, RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory

OP_COLOURS = {
    LifecycleOp.GERMINATE: "#f2c14e",
    LifecycleOp.SET_ALPHA_TARGET: "#4d9de0",
    LifecycleOp.ADVANCE: "#c7d3dd",
    LifecycleOp.FOSSILIZE: "#3bb273",
    LifecycleOp.PRUNE: "#d1495b",
}
ROW = 0.7
"""Height of a slot's bar; the distance between rows is 1."""


@dataclass(frozen=True, slots=True)
class EpisodeStory:
    """Records of one episode in the event log."""

    episode: int
    round_index: int
    steps: list[dict[str, Any]]
    """Its ``env_epoch`` records."""
    start: dict[str, Any]
    """Its ``episode_started`` record."""


class PictureObserver(RunObserver):
    """Observer that draws the picture of a finished run."""

    def run_opened(self, context: RunContext) -> None:
        self._run = context.run

    def run_ended(self, status: str) -> None:
        if status == "finished":
            draw_run(self._run)


def draw_run(run: RunDirectory) -> None:
    """Draw the picture of ``run``; without rounds (a heuristic run) only the episode."""
    rounds = [{name: float(value) for name, value in row.items()} for row in run.rounds()]
    story = best_episode(run.events())
    figure = Figure(figsize=(12, 9.5 if rounds else 4.6), layout="constrained")
    figure.suptitle(run.run_id, x=0.01, ha="left", fontsize=11, color=INK)
    if rounds:
        grid = figure.add_gridspec(3, 2, height_ratios=[1, 1, 1.7])
        _returns(figure.add_subplot(grid[0, 0]), rounds)
        _accuracy(figure.add_subplot(grid[0, 1]), rounds)
        _growth(figure.add_subplot(grid[1, 0]), rounds)
        _operations(figure.add_subplot(grid[1, 1]), rounds)
        cell = grid[2, :]
    else:
        cell = figure.add_gridspec(1, 1)[0, 0]
    if story is not None:
        rows = cell.subgridspec(2, 1, height_ratios=[1.1, 1], hspace=0.02)
        upper = figure.add_subplot(rows[0])
        lower = figure.add_subplot(rows[1], sharex=upper)
        upper.tick_params(labelbottom=False)
        where = f", round {story.round_index + 1}" if rounds else ""
        _episode(upper, lower, story, where)
    write_picture(run.picture, figure, dpi=110)


def best_episode(events: Iterable[Mapping[str, Any]]) -> EpisodeStory | None:
    """The complete episode with the highest final validation accuracy; the earliest of equals."""
    steps: dict[int, list[dict[str, Any]]] = defaultdict(list)
    starts: dict[int, dict[str, Any]] = {}
    best: tuple[float, int] | None = None
    for event in events:
        episode = event.get("episode", -1)
        if event["kind"] == "env_epoch":
            steps[episode].append(dict(event))
        elif event["kind"] == "episode_started":
            starts[episode] = dict(event)
        elif event["kind"] == "outcome" and episode in starts:
            accuracy = event["val_accuracy_pp"]
            if accuracy is not None and (best is None or accuracy > best[0]):
                best = (accuracy, episode)
    if best is None:
        return None
    start = starts[best[1]]
    return EpisodeStory(best[1], start["round"], steps[best[1]], start)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _by_round(axes: Axes, rounds: Sequence[Mapping[str, float]]) -> list[float]:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round", fontsize=8, color=INK)
    return [row["round"] + 1 for row in rounds]


def _returns(axes: Axes, rounds: Sequence[Mapping[str, float]]) -> None:
    x = _by_round(axes, rounds)
    mean = [row["return_mean"] for row in rounds]
    low = [row["return_mean"] - row["return_std"] for row in rounds]
    high = [row["return_mean"] + row["return_std"] for row in rounds]
    axes.fill_between(x, low, high, color="#4d9de0", alpha=0.2, linewidth=0)
    axes.plot(x, mean, color="#4d9de0", marker="o", markersize=4)
    _style(axes, "return per episode (mean, band: one standard deviation)")


def _accuracy(axes: Axes, rounds: Sequence[Mapping[str, float]]) -> None:
    x = _by_round(axes, rounds)
    axes.plot(x, [row["val_accuracy_ratio"] for row in rounds], color="#22333b", marker="o", markersize=4, label="all")
    committed = [row["committed_accuracy_ratio"] for row in rounds]
    axes.plot(x, committed, color="#3bb273", marker="s", markersize=3, label="fossilized seeds only")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    _style(axes, "validation accuracy at the end of an episode")


def _growth(axes: Axes, rounds: Sequence[Mapping[str, float]]) -> None:
    x = _by_round(axes, rounds)
    axes.plot(x, [row["growth_ratio"] for row in rounds], color="#8e6bbf", marker="o", markersize=4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("parameters / host", fontsize=8, color="#8e6bbf")
    right = axes.twinx()
    right.bar(x, [row["fossilised_mean"] for row in rounds], color="#3bb273", alpha=0.25, width=0.6)
    right.set_ylim(0, max(3.0, 1.2 * max(row["fossilised_mean"] for row in rounds)))
    right.set_ylabel("fossilized seeds per episode", fontsize=8, color="#3bb273")
    right.tick_params(labelsize=8, colors=INK)
    right.spines["top"].set_visible(False)
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    _style(axes, "growth")
    axes.spines["right"].set_visible(True)


def _operations(axes: Axes, rounds: Sequence[Mapping[str, float]]) -> None:
    x = _by_round(axes, rounds)
    bottom = [0.0] * len(rounds)
    for op, colour in OP_COLOURS.items():
        counts = [row[f"op_{op.name.lower()}"] / row["episodes"] for row in rounds]
        if not any(counts):
            continue
        axes.bar(x, counts, bottom=bottom, color=colour, width=0.7, label=op.name.lower().replace("_", " "))
        bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
    axes.set_ylim(0, 1.35 * max(1.0, *bottom))
    if any(bottom):
        axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=3)
    _style(axes, "operations per episode, without WAIT")


def _episode(upper: Axes, lower: Axes, story: EpisodeStory, where: str) -> None:
    accuracies = [story.start["val_accuracy_pp"], *(step["val_accuracy_pp"] for step in story.steps)]
    epochs = range(len(accuracies))
    upper.plot(epochs, accuracies, color=INK, linewidth=1.6, label="all seeds")
    committed = [story.start["committed_accuracy_pp"], *(step["committed_accuracy_pp"] for step in story.steps)]
    upper.plot(epochs, committed, color="#3bb273", linewidth=1.2, linestyle="--", label="fossilized seeds only")
    upper.set_ylim(0, 100)
    upper.set_ylabel("accuracy (%)", fontsize=8, color=INK)
    upper.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    _style(upper, f"best episode ({story.episode}{where}): accuracy, and stages of its seeds")
    _timeline(lower, story)


def _timeline(axes: Axes, story: EpisodeStory) -> None:
    slots = sorted({slot for step in story.steps for slot in step["slots"]}, key=parse_slot_id) or ["no seeds"]
    seen: set[Stage] = set()
    for row, slot in enumerate(slots):
        previous_seed = None
        for step in story.steps:
            state = step["slots"].get(slot)
            if state is None:
                previous_seed = None
                continue
            stage = Stage[state["stage"]]
            seen.add(stage)
            _cell(axes, step["step"] - 1, row, stage, state["alpha"])
            if state["seed"] != previous_seed:
                axes.text(step["step"] - 0.9, row, state["blueprint"], fontsize=7.5, color=INK, va="center", zorder=4)
            previous_seed = state["seed"]
    axes.set_yticks(range(len(slots)), slots)
    axes.set_ylim(len(slots) - 0.4, -0.6)
    axes.set_xlim(0, max(1, len(story.steps)))
    axes.set_xlabel("epoch", fontsize=8, color=INK)
    handles = [
        Patch(color=colour, label=stage.name.lower()) for stage, colour in STAGE_COLOURS.items() if stage in seen
    ]
    if handles:
        axes.legend(
            handles=handles, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=8
        )
    _style(axes, "")
    axes.grid(False)


def _cell(axes: Axes, left: float, row: int, stage: Stage, alpha: float) -> None:
    """One epoch of one slot. The filled share of the bar is the amplitude of the seed."""
    colour = STAGE_COLOURS.get(stage, "#ffffff")
    partial = stage in AMPLIFIED and alpha < 1.0
    axes.barh(row, 1.0, left=left, height=ROW, color=colour, alpha=0.3 if partial else 1.0, linewidth=0)
    if partial:
        filled = ROW * alpha
        axes.barh(row + (ROW - filled) / 2, 1.0, left=left, height=filled, color=colour, linewidth=0)
