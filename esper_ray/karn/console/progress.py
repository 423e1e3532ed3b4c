"""Progress of a run: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from esper_ray.karn.console.lines import LINE_SECONDS, ProgressLines
from esper_ray.karn.console.round_in_play import RoundInPlay, RoundSoFar
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.nissa.runs.observer import RunContext, RunObserver

SHOWN_ROUNDS = 12
"""Number of rounds in the live table."""
SHORT_NAMES = {
    LifecycleOp.GERMINATE: "germ",
    LifecycleOp.SET_ALPHA_TARGET: "alpha",
    LifecycleOp.PRUNE: "prune",
    LifecycleOp.FOSSILIZE: "foss",
    LifecycleOp.ADVANCE: "adv",
}


def describe_operations(row: dict[str, Any]) -> str:
    """Operations of a round other than WAIT, most frequent first."""
    counts = {name: int(row[f"op_{op.name.lower()}"]) for op, name in SHORT_NAMES.items()}
    executed = sorted((item for item in counts.items() if item[1]), key=lambda item: -item[1])
    return " ".join(f"{name} {count}" for name, count in executed) or "only wait"


def describe_duration(seconds: float) -> str:
    """Duration as minutes and seconds, with hours from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class RoundClock:
    """Estimate of the remaining time, from the rounds of this process."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._began = time.monotonic()
        self._done = 0

    def left(self, row: dict[str, Any]) -> float:
        """Remaining seconds after the round in ``row``."""
        self._done += 1
        rounds_left: int = self._rounds - row["round"] - 1
        return (time.monotonic() - self._began) / self._done * rounds_left


class RunHeader(RunObserver):
    """Observer that prints the headline and the workers of a run before its first round."""

    def __init__(self, console: Console, headline: str) -> None:
        self._console, self._headline = console, headline

    def run_opened(self, context: RunContext) -> None:
        lines = f"run {context.run.path}\n{self._headline}\nplan: {context.workers}"
        self._console.print(lines, highlight=False, markup=False, soft_wrap=True)

    def run_started(self, context: RunContext) -> None:
        self._console.print(context.workers, highlight=False, soft_wrap=True)


class PlainProgress(RunObserver):
    """Progress in lines for logs and pipes. There is a line for each round, and at least one every 30 seconds."""

    def __init__(self, console: Console | None = None, label: str = "", every_s: float = LINE_SECONDS) -> None:
        """
        Args:
            console: output of the lines; default: standard output.
            label: prefix of every line.
            every_s: longest time without a line, in seconds.
        """
        prefix = f"{label}  " if label else ""
        self._lines = ProgressLines(console or Console(), self._describe, every_s, prefix)

    def run_opened(self, context: RunContext) -> None:
        self._counter = StepCounter(context.config, context.rounds_done)
        self._lines.start()

    def run_started(self, context: RunContext) -> None:
        self._counter.begin()
        self._clock = RoundClock(context.config.ppo.rounds)

    def samples_received(self, records: Sequence[Record]) -> None:
        self._counter.add(records)

    def episode_finished(self, episode: Episode) -> None:
        self._counter.finish(episode)

    def update_started(self) -> None:
        self._counter.phase = "updating the policy"

    def fault_occurred(self, fault: Fault) -> None:
        self._lines.print(fault.describe())

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        self._counter.next_round(row["round"] + 1)
        self._lines.print(
            f"round {row['round'] + 1}/{self._counter.rounds}  "
            f"{timing['env_steps_per_second']:.1f} steps/s  "
            f"return {row['return_mean']:+.2f}  "
            f"accuracy {row['val_accuracy_ratio']:.1%}  "
            f"growth {row['growth_ratio']:.2f}x  "
            f"{describe_operations(row)}  "
            f"left {describe_duration(self._clock.left(row))}"
        )

    def run_ended(self, status: str) -> None:
        self._lines.stop()

    def _describe(self) -> str:
        return self._counter.describe()


class StepCounter:
    """Counter of the steps of the present round, from samples and finished episodes."""

    def __init__(self, config: RunConfig, rounds_done: int) -> None:
        self.rounds = config.ppo.rounds
        self.phase = "starting the workers"
        self._expected = config.system.envs * config.episode_length
        self._sampled = config.telemetry.level != "off"
        self._round = RoundInPlay(config.system.envs, rounds_done)
        self._began = time.monotonic()

    def begin(self) -> None:
        """Begin to count, when the workers have started."""
        self.next_round(self._round.index)

    def next_round(self, index: int) -> None:
        """Count from 0 for round ``index``, plus the steps already counted for its episodes."""
        self.phase, self._began = "collecting episodes", time.monotonic()
        self._round.next_round(index)

    def add(self, records: Sequence[Record]) -> None:
        """Count the steps in samples."""
        self._round.add_samples(records)

    def finish(self, episode: Episode) -> None:
        """Count all steps of a finished episode."""
        self._round.add_episode(episode)

    def describe(self) -> str:
        """Round, steps and speed, for example ``round 1: 120 of 320 steps, 14.0 steps/s``.

        Without samples (``telemetry.level`` is ``off``) only finished episodes are counted.
        """
        if self.phase == "starting the workers":
            return self.phase
        steps, name = self._round.steps, f"round {self._round.index + 1}"
        if self.phase == "updating the policy":
            return f"{name}: updating the policy with {steps} steps"
        seconds = max(time.monotonic() - self._began, 1e-9)
        if not steps and not self._sampled:
            return f"{name}: no episode has ended after {describe_duration(seconds)}"
        return f"{name}: {steps} of {self._expected} steps, {steps / seconds:.1f} steps/s"


class LiveProgress(RunObserver):
    """Live table of the last rounds, with a bar for the present round."""

    def __init__(self, config: RunConfig, console: Console) -> None:
        self._config = config
        self._clock = RoundClock(config.ppo.rounds)
        self._rows: list[tuple[str, ...]] = []
        self._round = RoundInPlay(config.system.envs, 0)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes"),
            TimeElapsedColumn(),
        )
        self._task = self._bar.add_task("collecting episodes", total=config.system.envs)
        self._left = "time left: after the first round"
        self._is_over = False
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    def run_started(self, context: RunContext) -> None:
        self._round = RoundInPlay(self._config.system.envs, context.rounds_done)
        self._clock = RoundClock(self._config.ppo.rounds)
        self._live.start()

    def run_ended(self, status: str) -> None:
        if not self._live.is_started:
            return
        self._bar.update(self._task, visible=False)
        self._left = ""
        self._is_over = True
        self._live.stop()

    def episode_finished(self, episode: Episode) -> None:
        self._round.add_episode(episode)
        self._bar.update(self._task, description="collecting episodes", advance=1)

    def fault_occurred(self, fault: Fault) -> None:
        self._live.console.print(fault.describe(), highlight=False, soft_wrap=True)

    def update_started(self) -> None:
        self._bar.update(self._task, description="updating the policy")

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        self._round.next_round(row["round"] + 1)
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
        self._bar.reset(self._task, description="collecting episodes")

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("round", "steps/s", "return", "accuracy", "growth", "fossils"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("operations", no_wrap=True, overflow="ellipsis")
        for row in self._rows[-SHOWN_ROUNDS:]:
            table.add_row(*row)
        so_far = None if self._is_over else self._round.so_far()
        if so_far is not None:
            table.add_row(*self._running_row(so_far), style="dim")
        return Group(table, self._bar, Text(self._left, style="dim"))

    def _running_row(self, so_far: RoundSoFar) -> tuple[str, ...]:
        counts = {f"op_{op.name.lower()}": so_far.operations.get(op.name, 0) for op in LifecycleOp}
        return (
            f"{self._round.index + 1}",
            "",
            _number(so_far.episode_return, "+.2f"),
            _number(so_far.val_accuracy_pp, ".1f", "%"),
            _number(so_far.growth_ratio, ".2f", "x"),
            f"{so_far.fossilized:.1f}",
            describe_operations(counts),
        )


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def progress_for(config: RunConfig, console: Console, label: str = "") -> LiveProgress | PlainProgress:
    """The live table on a terminal, plain lines elsewhere.

    Args:
        label: prefix of the lines of one run among several on the same console; with it, progress is plain lines.
    """
    live = console.is_terminal and not label
    return LiveProgress(config, console) if live else PlainProgress(console, label)
