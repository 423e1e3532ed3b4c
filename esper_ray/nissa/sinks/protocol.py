"""What a place that takes the numbers of a run has to do, and what it is told."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PPO = ("policy_loss", "value_loss", "kl", "clip_share", "grad_norm", "explained_variance", "return_variance")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run before its first round."""

    run: str
    group: str
    """Which of several runs that belong together; else empty."""
    folder: Path
    """The run directory."""
    config: Mapping[str, Any]
    """Every leaf of the configuration by its dotted name."""
    round_index: int = 0
    """Rounds that were finished before, if the run is gone on with."""

    @property
    def name(self) -> str:
        """Run and group."""
        return f"{self.run}/{self.group}" if self.group else self.run


class Sink(Protocol):
    """Takes the numbers of a run. It may fail and it may take its time: training does not wait for it."""

    name: str
    """As its option is called."""

    def open(self, facts: RunFacts) -> None:
        """Begin, or go on with what was begun under this name. Called again if it has failed."""

    def round(self, values: Mapping[str, float], round_index: int) -> None:
        """Numbers of a round, counted from 0."""

    def close(self, status: str, picture: Path | None) -> None:
        """The run is finished, interrupted or failed. Called only after ``open``.

        Args:
            picture: of the whole run, if there is one.
        """


def values_of(row: Mapping[str, Any], timing: Mapping[str, float]) -> dict[str, float]:
    """The numbers of a line of ``rounds.csv`` and of ``timings.csv`` that are finite, with names in folders."""
    named = {f"{_folder(name)}{name.removeprefix('op_')}": value for name, value in row.items() if name != "round"}
    named |= {f"time/{name}": value for name, value in timing.items() if name != "round"}
    return {name: float(value) for name, value in named.items() if value is not None and math.isfinite(value)}


def _folder(name: str) -> str:
    if name.startswith("op_"):
        return "op/"
    return "ppo/" if name in PPO or name.startswith("entropy") else "round/"
