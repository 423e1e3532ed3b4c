"""Protocol of a sink, and facts of the run that it receives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PPO = ("policy_loss", "value_loss", "kl", "clip_share", "grad_norm", "explained_variance", "return_variance")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts of a run before its first round."""

    run: str
    group: str
    """Group of the run within its name; may be empty."""
    folder: Path
    """The run directory."""
    config: Mapping[str, Any]
    """Leaves of the configuration by their dotted names."""
    round_index: int = 0
    """Finished rounds of a resumed run, else 0."""

    @property
    def name(self) -> str:
        """Run and group as one name."""
        return f"{self.run}/{self.group}" if self.group else self.run


class Sink(Protocol):
    """Receiver of the numbers of a run. It may fail or be slow: training does not wait for it."""

    name: str
    """Name of its option."""

    def open(self, facts: RunFacts) -> None:
        """Start the run of this name, or resume it. Called again after a failure."""

    def round(self, values: Mapping[str, float], round_index: int) -> None:
        """Add the numbers of a round, counted from 0."""

    def close(self, status: str, picture: Path | None) -> None:
        """End the run: finished, interrupted or failed. Called only after ``open``.

        Args:
            picture: summary of the run, if there is one.
        """


def scalar_values(row: Mapping[str, Any], timing: Mapping[str, float]) -> dict[str, float]:
    """Finite numbers of a line of ``rounds.csv`` and of ``timings.csv``, by name with a folder."""
    named = {f"{_folder(name)}{name.removeprefix('op_')}": value for name, value in row.items() if name != "round"}
    named |= {f"time/{name}": value for name, value in timing.items() if name != "round"}
    return {name: float(value) for name, value in named.items() if value is not None and math.isfinite(value)}


def _folder(name: str) -> str:
    if name.startswith("op_"):
        return "op/"
    return "ppo/" if name in PPO or name.startswith("entropy") else "round/"
