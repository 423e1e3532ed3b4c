"""Places of this machine that a viewer can show: runs, and folders, comparisons, sweeps and evaluations."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from esper_ray.leyline.config.run import flatten
from esper_ray.leyline.errors import UsageError, shortened
from esper_ray.leyline.files.regular import read_regular
from esper_ray.leyline.names import RUNS
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import nearest_run

MANIFEST, SWEEP_FILE, EVALUATION_FILE = "manifest.json", "sweep.json", "evaluation.json"
MOST_RUNS = 2000
"""Most directories of a folder that are looked at."""
TRIALS = "trials"
COLUMNS = ("name", "seed")
"""Keys of a configuration that the list of runs has columns for."""
FolderKind = Literal["folder", "comparison", "sweep", "evaluation", "storage", "page"]
LineKind = Literal["run", "comparison", "sweep", "evaluation", "policy"]


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in a folder, a group of runs, or a policy of an evaluation."""

    name: str
    status: str = ""
    started: str = ""
    """Time in ISO 8601; empty if it is not recorded."""
    updated: str = ""
    task: str = ""
    preset: str = ""
    seed: str = ""
    group: str = ""
    kind: LineKind = "run"
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Configuration by dotted key."""
    detail: str = ""
    """What differs from the other runs of the list; the scores of a policy."""

    @property
    def can_be_opened(self) -> bool:
        """Whether there is more to see of it."""
        return self.kind != "policy"


@dataclass(frozen=True, slots=True)
class RunPlace:
    """What is shown: a folder of runs, and the run in it."""

    folder: Path
    run: RunDirectory | None
    """``None``: the folder itself."""


def place_of(path: Path | None) -> RunPlace:
    """The place of an argument. Without one it is the newest run in ``runs/``.

    Raises:
        UsageError: if there is no such run, or the folder holds none.
    """
    folder = RUNS if path is None else path
    if (folder / MANIFEST).is_file():
        return RunPlace(folder.parent, RunDirectory.open(folder))
    if path is not None and folder_kind(folder) != "folder":
        return RunPlace(folder, None)
    lines = lines_in(folder)
    if not lines:
        raise UsageError(_without_runs(path))
    runs = [line for line in lines if line.kind == "run"]
    if path is not None or not runs:
        return RunPlace(folder, None)
    return RunPlace(folder, RunDirectory.open(folder / runs[0].name))


def folder_kind(folder: Path) -> FolderKind:
    """What the runs of a folder have in common."""
    if (folder / SWEEP_FILE).is_file():
        return "sweep"
    if (folder / EVALUATION_FILE).is_file():
        return "evaluation"
    return "comparison" if _is_comparison(folder) else "folder"


def _is_comparison(folder: Path) -> bool:
    """Whether a folder holds sides of a comparison of its name, and no other run."""
    trees = [tree for _, tree in _manifests(folder)]
    names = {(str(tree.get("run")), bool(tree.get("group"))) for tree in trees}
    return 0 < len(trees) <= 2 and names == {(folder.absolute().name, True)}


def _without_runs(path: Path | None) -> str:
    if path is None:
        return f"there is no run in {RUNS}/; `esper train ppo` starts one, `esper sanctum RUN` shows one elsewhere"
    if path.is_dir():
        return f"{path} is not a run and holds none: {MANIFEST} is missing"
    reason = "it is a file; a run is a folder" if path.exists() else "it does not exist"
    near = nearest_run(path)
    return f"there is no run {shortened(str(path))}: {reason}" + (f"; did you mean {near}?" if near else "")


def lines_in(folder: Path) -> tuple[RunLine, ...]:
    """What a folder holds: its runs and groups of runs, the trials of a sweep, the policies of an evaluation."""
    kind = folder_kind(folder)
    if kind == "evaluation":
        return _policies(folder)
    if kind == "sweep":
        trials = runs_in(folder / TRIALS)
        return with_differences([replace(line, name=f"{TRIALS}/{line.name}") for line in trials])
    runs = with_differences(runs_in(folder))
    return (*runs, *_groups(folder)) if kind == "folder" else runs


def runs_in(folder: Path) -> tuple[RunLine, ...]:
    """Runs in a folder, the one that started last first. What cannot be read is left out."""
    lines = [run_line(name, manifest) for name, manifest in _manifests(folder)]
    return tuple(sorted(lines, key=lambda line: (line.started, line.name), reverse=True))


def _manifests(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and manifests of the runs in a folder."""
    for entry in _entries(folder):
        try:
            manifest = json.loads(read_regular(entry / MANIFEST))
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict):
            yield entry.name, manifest


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:MOST_RUNS]
    except OSError:
        return []


def _groups(folder: Path) -> Iterator[RunLine]:
    """Comparisons, sweeps and evaluations in a folder, by name."""
    for entry in _entries(folder):
        if entry.is_dir() and not (entry / MANIFEST).is_file():
            kind = folder_kind(entry)
            if kind in ("comparison", "sweep", "evaluation"):
                yield RunLine(entry.name, kind=kind)


def _policies(folder: Path) -> tuple[RunLine, ...]:
    """Policies of an evaluation with their scores; none if the file cannot be read."""
    try:
        tree = json.loads(read_regular(folder / EVALUATION_FILE))
        return tuple(_policy_line(summary) for summary in tree["summaries"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _policy_line(summary: Mapping[str, Any]) -> RunLine:
    scores = (("test_accuracy_pp", "test accuracy"), ("objective_pp", "objective"))
    known = [(title, summary[key]) for key, title in scores if isinstance(summary.get(key), Mapping)]
    texts = [f"{title} {value['mean']:.1f} [{value['low']:.1f}, {value['high']:.1f}]" for title, value in known]
    return RunLine(
        str(summary["policy"]), status=f"{summary['episodes']} episodes", kind="policy", detail=", ".join(texts)
    )


def run_line(name: str, manifest: dict[str, Any]) -> RunLine:
    """The run ``name`` with this manifest, which need not be as declared."""
    raw = manifest.get("config")
    config: dict[str, Any] = raw if isinstance(raw, dict) else {}
    raw_task = config.get("task")
    task = raw_task.get("name", "") if isinstance(raw_task, dict) else ""
    return RunLine(
        name=name,
        status=str(manifest.get("status", "unknown")),
        started=str(manifest.get("started", "")),
        updated=str(manifest.get("updated", "")),
        task=str(task),
        preset=str(config.get("name", "")),
        seed=str(config.get("seed", "")),
        group=str(manifest.get("group") or ""),
        settings=flatten(config),
    )


def with_differences(lines: Sequence[RunLine]) -> tuple[RunLine, ...]:
    """The lines, each with the settings in which the runs differ."""
    absent = object()
    keys = dict.fromkeys(key for line in lines for key in line.settings if key not in COLUMNS)
    varied = [key for key in keys if any(_other(line, lines[0], key, absent) for line in lines[1:])]
    return tuple(
        replace(line, detail=", ".join(f"{key} {line.settings.get(key, 'not set')}" for key in varied))
        for line in lines
    )


def _other(line: RunLine, first: RunLine, key: str, absent: object) -> bool:
    return bool(line.settings.get(key, absent) != first.settings.get(key, absent))


def shown_path(path: Path) -> str:
    """A path as it is written in commands: relative to the working folder if it is below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(path)
