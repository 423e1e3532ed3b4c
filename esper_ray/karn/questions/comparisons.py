"""Several runs beside one another: settings that differ, curves by group with intervals."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.files.regular import open_regular
from esper_ray.nissa.runs.position import ROUNDS_FILE
from esper_ray.nissa.runs.run_files import RunDirectoryError
from esper_ray.nissa.state.answers import BOOTSTRAP_SAMPLES, INTERVAL, Gain

MOST_COMPARED = 10
"""Most runs that are compared."""
COMPARED_COLUMNS = ("val_accuracy_ratio", "committed_accuracy_ratio", "growth_ratio")
"""Columns of rounds that are compared. Returns of two reward modes are not comparable."""
UNGROUPED = ("seed", "name")
"""Settings in which runs of one group may differ."""
ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One of the compared runs."""

    id: str
    name: str
    url: str
    status: str | None
    seed: Any
    group: str
    """Side of a comparison; empty: the group follows from the settings."""
    settings: Mapping[str, Any]
    """Configuration by dotted key."""
    gain: Gain | None
    control_ratio: float | None
    """Mean final accuracy without growth."""
    columns: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Numbers by round."""


def round_columns(path: Path) -> dict[str, list[float | None]]:
    """Compared columns of a run and ``round``, from its table of rounds.

    They are empty before the first round.


    Raises:
        RunDirectoryError: if the table is damaged.
    """
    columns: dict[str, list[float | None]] = {name: [] for name in ("round", *COMPARED_COLUMNS)}
    file = path / ROUNDS_FILE
    try:
        with io.TextIOWrapper(open_regular(file), encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                numbers = {name: float(row[name]) for name in columns}
                for name, number in numbers.items():
                    columns[name].append(number if math.isfinite(number) else None)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunDirectoryError(f"{file} cannot be used: {error!s:.200}") from error
    return columns if columns["round"] else {}


def comparison(name: str, runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """Settings and curves of these runs.

    Raises:
        UsageError: if they are more than ``MOST_COMPARED``, or fewer than two.
    """
    if not 2 <= len(runs) <= MOST_COMPARED:
        raise UsageError(f"{len(runs)} runs are compared: choose 2 to {MOST_COMPARED}")
    keys = differing_keys([run.settings for run in runs])
    return {
        "name": name,
        "runs": [_run(run) for run in runs],
        "settings": [{"key": key, "values": [run.settings.get(key, ABSENT) for run in runs]} for key in keys],
        "groups": [_group(title, members) for title, members in grouped(runs, keys).items()],
        "verdict": None,
        "verdict_missing": "Curves of training are no verdict; esper evaluate compares policies on paired seeds.",
        "evaluation": None,
        "controls_note": "The control is the mean of all hosts of a run that were trained without growth.",
    }


def differing_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys in which the configurations differ, in their order."""
    keys = dict.fromkeys(key for tree in settings for key in tree)
    absent = object()
    first = settings[0] if settings else {}
    return [key for key in keys if any(tree.get(key, absent) != first.get(key, absent) for tree in settings[1:])]


def grouped(runs: Sequence[ComparedRun], keys: Sequence[str]) -> dict[str, list[ComparedRun]]:
    """Runs by group: that of their names, else runs whose settings differ in the seed alone."""
    groups: dict[str, list[ComparedRun]] = {}
    varied = [key for key in keys if key not in UNGROUPED]
    for run in runs:
        title = run.group or ", ".join(f"{key} {run.settings.get(key, ABSENT)}" for key in varied) or "all runs"
        groups.setdefault(title, []).append(run)
    return groups


def _run(run: ComparedRun) -> dict[str, Any]:
    columns = dict(run.columns)
    if columns:
        columns["control_accuracy_ratio"] = [run.control_ratio] * len(columns["round"])
    return {
        **{name: getattr(run, name) for name in ("id", "name", "url", "status", "seed", "group")},
        "gain": None if run.gain is None else asdict(run.gain),
        "columns": columns,
    }


def _group(title: str, runs: Sequence[ComparedRun]) -> dict[str, Any]:
    rounds = sorted({index for run in runs for index in run.columns.get("round", ()) if index is not None})
    tree: dict[str, Any] = {"name": title, "runs": [run.id for run in runs], "n": len(runs), "round": rounds}
    for name in COMPARED_COLUMNS:
        by_run = [dict(zip(run.columns.get("round", ()), run.columns.get(name, ()), strict=True)) for run in runs]
        rows = [[value for curve in by_run if (value := curve.get(index)) is not None] for index in rounds]
        tree[name] = curve_interval(rows)
    return tree


def curve_interval(rows: Sequence[Sequence[float]]) -> dict[str, list[float | None]]:
    """Mean of each row with a bootstrap interval, which one value does not have."""
    generator = np.random.default_rng(0)
    means = [fmean(row) if row else None for row in rows]
    bounds = [_interval(row, generator) if len(row) > 1 else (None, None) for row in rows]
    return {"mean": means, "low": [low for low, _ in bounds], "high": [high for _, high in bounds]}


def _interval(values: Sequence[float], generator: np.random.Generator) -> tuple[float, float]:
    sample = np.array(values)
    means = sample[generator.integers(len(sample), size=(BOOTSTRAP_SAMPLES, len(sample)))].mean(axis=1)
    low, high = np.percentile(means, INTERVAL)
    return float(low), float(high)
