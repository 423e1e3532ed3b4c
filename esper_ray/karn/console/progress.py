"""Live progress of a run: a table that redraws itself on a terminal, plain lines elsewhere."""

import time
from collections import Counter
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.faults import Fault
from esper_ray.leyline.policy import Episode

ROWS = 12
"""Rounds that the live table shows."""
SHORT = {
    LifecycleOp.GERMINATE: "germ",
    LifecycleOp.SET_ALPHA_TARGET: "alpha",
    LifecycleOp.PRUNE: "prune",
    LifecycleOp.FOSSILIZE: "foss",
    LifecycleOp.ADVANCE: "adv",
}


def describe_operations(row: dict[str, Any]) -> str:
    """Operations of a round other than WAIT, most frequent first."""
    counts = {short: int(row[f"op_{op.name.lower()}"]) for op, short in SHORT.items()}
    chosen = sorted((item for item in counts.items() if item[1]), key=lambda item: -item[1])
    return " ".join(f"{short} {count}" for short, count in chosen) or "only wait"


def describe_duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class RoundClock:
    """Estimates the time left from the rounds so far in this process."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._began = time.monotonic()
        self._done = 0

    def left(self, row: dict[str, Any]) -> float:
        """Seconds left after the round in ``row``."""
        self._done += 1
        rounds_left: int = self._rounds - row["round"] - 1
        return (time.monotonic() - self._began) / self._done * rounds_left


class PlainProgress:
    """One line per round, for logs and pipes."""

    def __init__(self, config: RunConfig, console: Console, label: str = "") -> None:
        """
        Args:
            label: begins every line.
        """
        self._rounds = config.ppo.rounds
        self._label = f"{label}  " if label else ""
        self._console = console
        self._clock = RoundClock(config.ppo.rounds)

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def episode_finished(self, episode: Episode) -> None:
        """Nothing: a line per episode would be too much."""

    def updating(self) -> None:
        """Nothing."""

    def fault_happened(self, fault: Fault) -> None:
        """Print it."""
        self._console.print(f"{self._label}{fault.describe()}", highlight=False, soft_wrap=True)

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        """Print the line."""
        self._console.print(
            f"{self._label}round {row['round'] + 1}/{self._rounds}  "
            f"{timing['env_steps_per_second']:.1f} steps/s  "
            f"return {row['return_mean']:+.2f}  "
            f"accuracy {row['val_accuracy_ratio']:.1%}  "
            f"growth {row['growth_ratio']:.2f}x  "
            f"{describe_operations(row)}  "
            f"left {describe_duration(self._clock.left(row))}",
            highlight=False,
            soft_wrap=True,
        )


class LiveProgress:
    """A table of the last rounds with a bar for the present one."""

    def __init__(self, config: RunConfig, console: Console, done: int = 0) -> None:
        """
        Args:
            done: rounds that were finished before this process began.
        """
        self._config = config
        self._clock = RoundClock(config.ppo.rounds)
        self._rows: list[tuple[str, ...]] = []
        self._last_round = done
        self._present: list[Episode] = []
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes"),
            TimeElapsedColumn(),
        )
        self._task = self._bar.add_task("playing", total=config.system.envs)
        self._left = "time left: after the first round"
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> "LiveProgress":
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.update(self._task, visible=False)
        self._left = ""
        self._present = []
        self._live.stop()

    def episode_finished(self, episode: Episode) -> None:
        """Advance the bar."""
        self._present.append(episode)
        self._bar.update(self._task, description="playing", advance=1)

    def fault_happened(self, fault: Fault) -> None:
        """Print it above the table."""
        self._live.console.print(fault.describe(), highlight=False, soft_wrap=True)

    def updating(self) -> None:
        """Say so."""
        self._bar.update(self._task, description="learning")

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        """Add the row."""
        self._last_round = row["round"] + 1
        self._rows.append(
            (
                f"{row['round'] + 1}/{self._config.ppo.rounds}",
                f"{timing['env_steps_per_second']:.1f}",
                f"{row['return_mean']:+.2f}",
                f"{row['val_accuracy_ratio']:.1%}",
                f"{row['growth_ratio']:.2f}x",
                f"{row['fossilised_mean']:.1f}",
                describe_operations(row),
            )
        )
        self._left = f"time left: about {describe_duration(self._clock.left(row))}"
        self._present = []
        self._bar.reset(self._task, description="playing")

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("round", "steps/s", "return", "accuracy", "growth", "kept"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("operations", no_wrap=True, overflow="ellipsis")
        for row in self._rows[-ROWS:]:
            table.add_row(*row)
        if self._present:
            table.add_row(*self._running_row(), style="dim")
        return Group(table, self._bar, Text(self._left, style="dim"))

    def _running_row(self) -> tuple[str, ...]:
        episodes = self._present
        operations = sum((Counter(episode.operations) for episode in episodes), Counter[str]())
        counts = {f"op_{op.name.lower()}": operations[op.name] for op in LifecycleOp}
        return (
            f"{self._last_round + 1}",
            "",
            f"{sum(e.total_reward for e in episodes) / len(episodes):+.2f}",
            f"{sum(e.val_accuracy_pp for e in episodes) / len(episodes):.1f}%",
            f"{sum(e.growth_ratio for e in episodes) / len(episodes):.2f}x",
            f"{sum(e.fossilised for e in episodes) / len(episodes):.1f}",
            describe_operations(counts),
        )


def progress_for(config: RunConfig, console: Console, done: int = 0, label: str = "") -> LiveProgress | PlainProgress:
    """The live table on a terminal, plain lines elsewhere; ``done`` rounds were finished before.

    Args:
        label: of one run among several that are shown together, in lines on a terminal too.
    """
    alone = console.is_terminal and not label
    return LiveProgress(config, console, done) if alone else PlainProgress(config, console, label)
