"""Summaries of a round: table row, events, times and counts of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from esper_actors.rollout.snapshots import Behaviour
from esper_ray.leyline.actions import HEADS, LifecycleOp
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.metrics.anomalies import anomalies

DIAGNOSTICS = (
    "policy_loss",
    "value_loss",
    "entropy",
    "kl",
    "clip_share",
    "grad_norm",
    "explained_variance",
    "return_variance",
    "low_variance",
    "optimizer_steps",
    "skipped_minibatches",
    "stopped_by_kl",
    "epsilon",
    "entropy_coefficient",
    *(f"entropy_{head}" for head in HEADS),
)
"""Diagnostics of an update that are columns of ``rounds.csv``."""


@dataclass(slots=True)
class Progress:
    """The counts of a run, which every checkpoint holds."""

    round_index: int = 0
    """Number of finished rounds."""
    env_steps: int = 0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    """The episode with the highest validation accuracy so far."""
    best_round: dict[str, Any] = field(default_factory=dict)
    """The round with the highest validation accuracy so far, and the checkpoint of the policy that played it."""
    control_pp: list[float] = field(default_factory=list)
    """Validation accuracies without growth, of the episodes with a control, in percentage points."""

    def count(self, episodes: Sequence[Episode]) -> None:
        """Add the steps, the best episode and the controls of a round."""
        self.env_steps += sum(len(episode.trajectory) for episode in episodes)
        best = max(episodes, key=lambda episode: episode.val_accuracy_pp)
        if not self.best or best.val_accuracy_pp > self.best["val_accuracy_pp"]:
            self.best = {"episode": best.index, "val_accuracy_pp": best.val_accuracy_pp}
        controls = (record for episode in episodes for record in episode.log if record["kind"] == "control")
        self.control_pp += [record["val_accuracy_pp"] for record in controls]

    def count_round(self, accuracy_ratio: float, behaviour: Behaviour) -> None:
        """Update the best round with the accuracy and the policy of this one."""
        if not self.best_round or accuracy_ratio > self.best_round["val_accuracy_ratio"]:
            self.best_round = {
                "round": self.round_index,
                "val_accuracy_ratio": accuracy_ratio,
                "checkpoint": behaviour.version,
            }


def table_difference(progress: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> str | None:
    """The first difference of the saved ``progress`` from the rows: ``None`` without one.

    Args:
        rows: of ``rounds.csv``, one of each finished round.
    """
    if not rows:
        return None
    best = max(rows, key=lambda row: float(row["val_accuracy_ratio"]))
    index = int(best["round"])
    expected = {
        "env_steps": int(rows[-1]["env_steps"]),
        "best_round": {
            "round": index,
            "val_accuracy_ratio": float(best["val_accuracy_ratio"]),
            "checkpoint": index - int(best["staleness"]),
        },
    }
    for name, value in expected.items():
        if progress[name] != value:
            return f"progress.{name} is {progress[name]}, by rounds.csv it is {value}"
    return None if progress["best"] else "progress.best is empty although there are rounds"


def round_row(
    progress: Progress, episodes: Sequence[Episode], diagnostics: Mapping[str, float], behaviour: Behaviour
) -> dict[str, Any]:
    """The row of ``rounds.csv``. It depends neither on time nor on placement."""
    returns = [episode.total_reward for episode in episodes]
    row: dict[str, Any] = {
        "round": progress.round_index,
        "episodes": len(episodes),
        "env_steps": progress.env_steps,
        "staleness": progress.round_index - behaviour.version,
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "val_accuracy_ratio": float(np.mean([e.val_accuracy_pp for e in episodes])) / 100.0,
        "committed_accuracy_ratio": float(np.mean([e.committed_accuracy_pp for e in episodes])) / 100.0,
        "growth_ratio": float(np.mean([e.growth_ratio for e in episodes])),
        "fossilised_mean": float(np.mean([e.fossilized for e in episodes])),
        "refused": sum(e.refused for e in episodes),
        "rollbacks": sum(e.rollback for e in episodes),
    }
    row |= {f"op_{op.name.lower()}": sum(e.operations[op.name] for e in episodes) for op in LifecycleOp}
    return row | {name: diagnostics[name] for name in DIAGNOSTICS}


def round_events(
    rows: Sequence[Mapping[str, Any]],
    diagnostics: Mapping[str, float],
    choices: Mapping[str, int],
    progress: Progress,
    quarantined: Mapping[int, str],
) -> list[dict[str, Any]]:
    """The events of a round as a whole.

    Args:
        rows: all rows of ``rounds.csv`` so far, the present round last.
        choices: legal choices of each head, see :func:`~esper_ray.nissa.metrics.publisher.head_choices`.
        quarantined: environments quarantined in this round, with their last error.
    """
    row = rows[-1]
    index = row["round"]
    control = float(np.mean(progress.control_pp)) / 100.0 if progress.control_pp else None
    return [
        *(
            {"kind": "environment_quarantined", "round": index, "env": env, "error": error}
            for env, error in quarantined.items()
        ),
        {"kind": "ppo_update", "round": index, **diagnostics},
        {"kind": "round", **row},
        *anomalies(rows, choices, control, sorted(quarantined)),
    ]


def round_timing(round_index: int, steps: int, play_s: float, update_s: float) -> dict[str, float]:
    """The row of ``timings.csv``, in seconds."""
    return {
        "round": round_index,
        "play_seconds": round(play_s, 3),
        "update_seconds": round(update_s, 3),
        "env_steps_per_second": round(steps / (play_s + update_s), 3),
    }
