"""Progress of a sweep, as a live table or as plain lines.

What is shown of a trial is the state that is folded from its log.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from esper_ray.karn.console.lines import LINE_SECONDS, ProgressLines
from esper_ray.karn.console.progress import describe_duration
from esper_ray.karn.following import RunFollower
from esper_ray.leyline.results.sweep import DONE, TrialResult
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

logger = logging.getLogger(__name__)

ORDER = ("running", "failed", "interrupted", "finished", "stopped", "waiting")
"""Statuses in the order of the rows, where not all trials fit on the terminal."""
STYLES = {"running": "bold", "failed": "red", "waiting": "dim", "interrupted": "yellow", "stopped": "dim"}
MARGIN = 6
"""Lines of a terminal that are reserved for other output."""


class SweepProgress(Protocol):
    """Progress display of a sweep, a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def changed(self, trial: str, status: str) -> None:
        """Show a trial that has started, finished a round, or ended."""


class TrialStates:
    """States of the trials of a sweep, which advance with their logs."""

    def __init__(self, sweep: SweepDirectory) -> None:
        self._sweep = sweep
        self._followers: dict[str, RunFollower] = {}

    def results(self) -> dict[str, TrialResult]:
        """Results of all trials so far, by name."""
        return {name: self.result(name) for name in self._sweep.trials}

    def result(self, trial: str) -> TrialResult:
        """Result of a trial after the rounds of its state.

        Of a log that this version cannot read, it is the result in the table of rounds, and a warning says so.
        """
        run = self._sweep.run(trial)
        if run is None:
            return self._sweep.result_of(trial, None, ())
        follower = self._followers.get(trial)
        if follower is None or follower.run.path != run.path:  # a population has continued another trial
            follower = self._followers[trial] = RunFollower(run)
        try:
            follower.poll()
        except EventLogError as error:
            logger.warning("%s: its lines show the table of rounds: %s", trial, error)
            return self._sweep.result(trial)
        return self._sweep.result_of(trial, run, follower.state.rounds)


class TimeEstimate:
    """Estimate of a sweep's remaining time, from the rounds of this process."""

    def __init__(self, results: Iterable[TrialResult]) -> None:
        self._began = time.monotonic()
        self._before = sum(result.round_index for result in results)

    def left(self, results: Iterable[TrialResult]) -> float | None:
        """Remaining seconds; ``None`` before the first round."""
        present = list(results)
        done = sum(result.round_index for result in present) - self._before
        open_rounds = sum(s.rounds - s.round_index for s in present if s.status not in (*DONE, "failed"))
        return (time.monotonic() - self._began) / done * open_rounds if done > 0 else None


class PlainSweepProgress:
    """Progress in lines for logs and pipes: one for each round of each trial, and at least one every 30 seconds."""

    def __init__(self, sweep: SweepDirectory, console: Console, every_s: float = LINE_SECONDS) -> None:
        self._states = TrialStates(sweep)
        self._lines = ProgressLines(console, lambda: _counts(self._statuses.values()), every_s)
        self._results = self._states.results()
        self._statuses = {name: _initial_status(result) for name, result in self._results.items()}
        self._estimate = TimeEstimate(self._results.values())

    def __enter__(self) -> Self:
        self._lines.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.stop()

    def changed(self, trial: str, status: str) -> None:
        """Print the line of the trial."""
        result = self._states.result(trial)
        self._results[trial], self._statuses[trial] = result, status
        score = "" if result.score_pp is None else f"  score {result.score_pp:+.1f}"
        accuracy = result.means.get("committed_accuracy_ratio")
        more = "" if accuracy is None else f"  committed accuracy {accuracy:.1%}"
        self._lines.print(
            f"{trial}  {status}  round {result.round_index}/{result.rounds}{score}{more}  "
            f"{_counts(self._statuses.values())}{_left(self._estimate, self._results.values())}"
        )


class LiveSweepProgress:
    """Live table of the trials on a terminal."""

    def __init__(self, sweep: SweepDirectory, console: Console) -> None:
        self._states, self._console = TrialStates(sweep), console
        self._results = self._states.results()
        self._statuses = {name: _initial_status(result) for name, result in self._results.items()}
        self._estimate = TimeEstimate(self._results.values())
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self._render)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def changed(self, trial: str, status: str) -> None:
        """Advance the state of the trial."""
        self._results[trial] = self._states.result(trial)
        self._statuses[trial] = status

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("trial", "", "round", "score", "committed", "growth", "fossils", "return"):
            is_text = name in ("trial", "")
            table.add_column(name, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis")
        names = sorted(self._results, key=lambda name: ORDER.index(self._statuses[name]))
        shown = set(names[: max(4, self._console.height - MARGIN)])
        for name, result in self._results.items():
            if name in shown:
                table.add_row(*_row(result, self._statuses[name]), style=STYLES.get(self._statuses[name], ""))
        parts: list[Table | Text] = [table]
        if len(shown) < len(names):
            parts.append(Text(f"and {len(names) - len(shown)} more", style="dim"))
        summary = f"{_counts(self._statuses.values())}{_left(self._estimate, self._results.values())}"
        return Group(*parts, Text(summary, style="dim"))


def _initial_status(result: TrialResult) -> str:
    """Status of a trial before this process runs trials."""
    return result.status if result.status in DONE else "waiting"


def _row(result: TrialResult, status: str) -> tuple[str, ...]:
    means = result.means
    if result.score_pp is None:
        return (result.trial, status, f"0/{result.rounds}", "", "", "", "", "")
    return (
        result.trial + (f" g{result.generation}" if result.generation else ""),
        status,
        f"{result.round_index}/{result.rounds}",
        f"{result.score_pp:+.1f}",
        f"{means['committed_accuracy_ratio']:.1%}",
        f"{means['growth_ratio']:.2f}x",
        f"{means['fossilised_mean']:.1f}",
        f"{means['return_mean']:+.2f}",
    )


def _counts(statuses: Iterable[str]) -> str:
    counts = Counter(statuses)
    return ", ".join(f"{counts[status]} {status}" for status in ORDER if counts[status])


def _left(estimate: TimeEstimate, results: Iterable[TrialResult]) -> str:
    seconds = estimate.left(results)
    return "" if seconds is None else f"; left about {describe_duration(seconds)}"


def sweep_progress(sweep: SweepDirectory, console: Console) -> SweepProgress:
    """The live table on a terminal, plain lines elsewhere."""
    return LiveSweepProgress(sweep, console) if console.is_terminal else PlainSweepProgress(sweep, console)
