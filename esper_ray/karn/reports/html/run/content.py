"""What the log of a run holds for its report, read in two passes.

Everything here is a function of the files of the run: there is no clock, and no path of the machine in it.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from esper_ray.karn.following import ENDED
from esper_ray.karn.reports.html.lanes import EpisodeRecords
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files.regular import read_regular
from esper_ray.leyline.records import Record
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.log.reader import INTEGRITY, LogContent
from esper_ray.nissa.runs.run_directory import FAULTS, RunDirectory
from esper_ray.nissa.state.run_state import RunState

LISTED = ("rollback", "anomaly", "environment_quarantined", "ppo_update")
"""Kinds whose records the report counts or lists one by one."""


@dataclass(slots=True)
class RunContent:
    """Content of a run."""

    run_id: str
    manifest: Mapping[str, Any]
    config: RunConfig
    state: RunState
    outcomes: Sequence[Record]
    listed: Mapping[str, Sequence[Record]]
    """Records of the kinds in ``LISTED``, by kind."""
    faults: Sequence[tuple[int | None, Fault]]
    """Faults with the round in which they occurred."""
    problems: Sequence[str]
    """What is missing or damaged in the log."""
    integrity: Mapping[str, Any] | None
    """Counts of a finished run."""
    episodes: Sequence[EpisodeRecords] = ()
    """The best, the median and the worst episode."""

    @property
    def status(self) -> str:
        """Status of the manifest: ``running``, ``finished``, ``interrupted`` or ``failed``."""
        return str(self.manifest["status"])

    @property
    def accuracies_pp(self) -> Mapping[int, list[float]]:
        """Final accuracies of the episodes, by round."""
        by_round: dict[int, list[float]] = defaultdict(list)
        for outcome in self.outcomes:
            if outcome["val_accuracy_pp"] is not None:
                by_round[outcome["round"]].append(outcome["val_accuracy_pp"])
        return by_round


def read_run(run: RunDirectory) -> RunContent:
    """Content of a run directory, whose run may still train.

    Raises:
        RunDirectoryError: if a small file of it is damaged.
        EventLogError: if its log is damaged, or of another version.
    """
    config, manifest = run.config(), run.read_manifest()
    log = run.event_log.content(digests=True)
    fatal = [problem.text for problem in log.problems if problem.fatal]
    if fatal:
        raise EventLogError(fatal[0])
    state, outcomes, listed, controls = _folded(log)
    for row in run.timings():
        state = state.with_timing({name: float(value) for name, value in row.items()})
    faults = _faults(run)
    for _, fault in faults:
        state = state.with_fault(fault)
    if manifest["status"] in ENDED:
        state = state.with_status(str(manifest["status"]))
    return RunContent(
        run_id=str(manifest["run_id"]),
        manifest=manifest,
        config=config,
        state=state,
        outcomes=outcomes,
        listed=listed,
        faults=faults,
        problems=[_without_place(problem.text, run) for problem in log.problems],
        integrity=_integrity(run),
        episodes=_episodes(log, outcomes, controls, listed["rollback"]),
    )


def _folded(log: LogContent) -> tuple[RunState, list[Record], dict[str, list[Record]], list[Record]]:
    """State, outcomes, listed records, and controls."""
    state, outcomes, controls = RunState(), list[Record](), list[Record]()
    listed: dict[str, list[Record]] = {kind: [] for kind in LISTED}
    for record in log.records():
        state = state.apply(record)
        kind = record["kind"]
        if kind in listed:
            listed[kind].append(record)
        elif kind == "outcome":
            outcomes.append(record)
        elif kind == "control":
            controls.append(record)
    return state, outcomes, listed, controls


def _faults(run: RunDirectory) -> list[tuple[int | None, Fault]]:
    """Faults with their rounds. The reader of faults leaves damaged lines out, with a warning."""
    path = run.path / FAULTS
    faults = run.faults()
    rounds: list[int | None] = []
    for line in read_regular(path).splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            rounds.append(record.get("round") if isinstance(record, dict) else None)
        except ValueError:
            continue
    if len(rounds) != len(faults):
        rounds = [None] * len(faults)
    return list(zip(rounds, faults, strict=True))


def _integrity(run: RunDirectory) -> Mapping[str, Any] | None:
    """Counts of a finished run. ``None`` if there are none, or they are damaged, which the log says."""
    try:
        tree = json.loads(read_regular(run.path / INTEGRITY))
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def _without_place(text: str, run: RunDirectory) -> str:
    """A problem with names relative to the run: a report does not depend on where the run lies."""
    return text.replace(f"{run.path}/", "").replace(str(run.path), run.path.name)


def _episodes(
    log: LogContent, outcomes: Sequence[Record], controls: Sequence[Record], rollbacks: Sequence[Record]
) -> list[EpisodeRecords]:
    """The best, the median and the worst episode by final accuracy; of equals the earliest."""
    measured = [outcome for outcome in outcomes if outcome["val_accuracy_pp"] is not None]
    ranked = sorted(measured, key=lambda outcome: (-outcome["val_accuracy_pp"], outcome["episode"]))
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    chosen: dict[int, str] = {}
    for name, place in places.items() if ranked else ():
        chosen.setdefault(place, name)
    names = {(ranked[place]["round"], ranked[place]["episode"]): name for place, name in chosen.items()}
    starts: dict[tuple[int, int], Record] = {}
    steps: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for record in log.records(("episode_started", "env_epoch")) if names else ():
        episode = (record["round"], record["episode"])
        if episode not in names:
            continue
        if record["kind"] == "env_epoch":
            steps[episode].append(record)
        else:
            starts[episode] = record
    own = {(control["round"], control["episode"]): control["curve_pp"] for control in controls}
    mean = _mean_curve([control["curve_pp"] for control in controls])
    back = {(rollback["round"], rollback["episode"]): rollback for rollback in rollbacks}
    return [
        EpisodeRecords(
            name=names[episode],
            outcome=ranked[place],
            start=starts.get(episode),
            steps=tuple(steps[episode]),
            rollback=back.get(episode),
            control_pp=tuple(own.get(episode, mean)),
            own_control=episode in own,
        )
        for place in chosen
        for episode in [(ranked[place]["round"], ranked[place]["episode"])]
    ]


def _mean_curve(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean of the controls by step, up to the end of the shortest."""
    length = min(map(len, curves), default=0)
    columns = [[curve[step] for curve in curves] for step in range(length)]
    return [None if None in column else fmean(v for v in column if v is not None) for column in columns]
