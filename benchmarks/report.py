"""Report of a benchmark: a table, and one line of JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bar:
    """Bar that a figure must reach."""

    limit: float
    at_least: bool = False

    def holds(self, figure: float) -> bool:
        """Whether ``figure`` reaches the bar."""
        return figure >= self.limit if self.at_least else figure <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:.2f}"


@dataclass(frozen=True)
class Measurements:
    """Figures of one benchmark, with the bars of those that have one."""

    name: str
    figures: Mapping[str, float]
    bars: Mapping[str, Bar]

    @property
    def ok(self) -> bool:
        """Whether every bar holds."""
        return all(bar.holds(self.figures[name]) for name, bar in self.bars.items())

    def line(self) -> str:
        """The JSON line."""
        figures = {name: round(value, 4) for name, value in self.figures.items()}
        bars = {name: str(bar) for name, bar in self.bars.items()}
        return json.dumps({"benchmark": self.name, "figures": figures, "bars": bars, "ok": self.ok})

    def show(self) -> None:
        """Print the table and, last, the JSON line."""
        table = Table(title=self.name, title_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        table.add_column("bar", justify="right")
        table.add_column("", justify="left")
        for name, value in self.figures.items():
            bar = self.bars.get(name)
            verdict = "" if bar is None else "ok" if bar.holds(value) else "MISSED"
            table.add_row(name, f"{value:.3f}", "" if bar is None else str(bar), verdict)
        Console().print(table)
        print(self.line(), flush=True)


def paired_seconds(first: Callable[[], object], second: Callable[[], object], pairs: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median ratio first / second.

    They run alternately, ``pairs`` times, after a warm-up.
    """
    first()
    second()
    times: list[tuple[float, float]] = []
    for turn in range(pairs):
        seconds = {}
        for which in (first, second) if turn % 2 == 0 else (second, first):
            began = perf_counter()
            which()
            seconds[which] = perf_counter() - began
        times.append((seconds[first], seconds[second]))
    ratios = [a / b for a, b in times]
    return median(a for a, _ in times), median(b for _, b in times), median(ratios)
