"""Sweep job of ``esper sweep``: trials, ranking and report."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from esper_actors.cluster.settings import choose_ray_settings
from esper_actors.training.stop_request import StopRequest
from esper_ray.cli.errors import FAILED
from esper_ray.cli.jobs.announcement import announce
from esper_ray.karn.console.sweep_progress import sweep_progress
from esper_ray.karn.reports import sweep_report
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.sweep import POPULATION_SCHEDULERS, SweepConfig, Trial
from esper_ray.leyline.errors import UsageError, UserError
from esper_ray.leyline.plugins.rewards import own_reward
from esper_ray.leyline.results.sweep import DONE, RankedChoice, TrialResult
from esper_ray.nissa.runs.sweep_directory import SweepDirectory
from esper_ray.simic.comparison import LEVEL
from esper_ray.simic.ranking import ranking
from esper_ray.tolaria.assembly import build_organism
from esper_ray.tolaria.run_checks import check_devices, check_run
from esper_ray.tolaria.tasks import TaskError, load_task


class SweepJob:
    """Job that checks, runs and ranks the trials of a sweep."""

    def __init__(
        self,
        sweep: SweepConfig,
        base: RunConfig,
        trials: Sequence[Trial],
        previous: SweepDirectory | None,
        folder: Path,
        *,
        command: Sequence[str],
    ) -> None:
        """
        Args:
            previous: the sweep to resume, instead of a new one in ``folder``.

        Raises:
            UsageError: if a trial cannot be run, see ``check_run``, or ``folder`` is not empty.
        """
        self.sweep, self.base, self.trials = sweep, base, trials
        self.previous, self.folder, self.command = previous, folder, command
        self.console = Console()
        self.host_parameters = checked_host_parameters(trials)
        if previous is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(
                f"--out {folder}: it must be a new or empty folder; --resume {folder} resumes an existing sweep"
            )

    def run(self) -> int:
        """Exit code: 0 if all trials are done, 1 after failures, 129/130/143 after signals."""
        choose_ray_settings()
        try:
            return self._run()
        except UserError as error:
            folder = self.folder if self.previous is None else self.previous.path
            if error.exit_code == FAILED and (folder / "sweep.json").is_file():
                error.add_note("safe: every finished round of every trial")
                error.add_note(f"resume with: esper sweep --resume {shlex.quote(str(folder))}")
            raise

    def _run(self) -> int:
        from esper_actors.sweep.tuner import Sweeper

        with StopRequest() as stop, Sweeper(self.trials, self.sweep.concurrent) as sweeper:
            stop.listen()
            directory = self.previous or SweepDirectory.create(
                self.folder, self.sweep, self.base, self.host_parameters, self.command
            )
            announce(directory.path)
            self._print(f"sweep {directory.path}\n{self._headline(directory)}\n{sweeper.describe()}")
            with directory.lock():
                errors: dict[str, str] = {}
                if any(result.status not in DONE for result in directory.results()):
                    with sweep_progress(directory, self.console) as watcher:
                        errors = sweeper.run(directory, watcher, stop)
                return self._end(directory, errors, stop)

    def _headline(self, directory: SweepDirectory) -> str:
        done = sum(result.status in DONE for result in directory.results())
        resumed = f", {done} of them done" if self.previous is not None else ""
        grid = "".join(f", {key} in {list(values)}" for key, values in self.sweep.grid.items())
        modes = list(dict.fromkeys(trial.config.reward.mode for trial in self.trials))
        seeds = list(dict.fromkeys(trial.seed for trial in self.trials))
        return (
            f"{len(self.trials)} trials of {self.base.name}{resumed}: reward modes {', '.join(modes)}{grid}, seeds "
            f"{', '.join(map(str, seeds))}; {self.base.ppo.rounds} rounds each, scheduler {self.sweep.scheduler}"
        )

    def _end(self, directory: SweepDirectory, errors: Mapping[str, str], stop: StopRequest) -> int:
        results = directory.results()
        table = sweep_report.write_sweep(directory.path, results)
        done = [result for result in results if result.status in DONE]
        command = f"esper sweep --resume {shlex.quote(str(directory.path))}"
        counts = f"{len(done)} of {len(results)} trials are done"
        if stop() and len(done) < len(results):
            self._print(f"stopped: {counts}; results so far {table}\nresume with: {command}")
            return stop.exit_code
        if done:
            self._rank(directory, done)
        for trial, error in errors.items():
            self._print(f"failed: {trial}: {error}")
        if len(done) < len(results):
            self._print(f"{counts}; retry the others with: {command}")
            return FAILED
        return 0

    def _rank(self, directory: SweepDirectory, done: Sequence[TrialResult]) -> None:
        rankings = rank_choices(self.sweep, done)
        title = f"{self.sweep.name}: {len(done)} trials of {self.base.name}, {self.base.ppo.rounds} rounds"
        notes = self._notes(rankings)
        sweep_report.write_ranking(directory.path, rankings)
        sweep_report.write_markdown(directory.path, rankings, title, notes)
        first = next(iter(rankings))
        picture = sweep_report.draw_sweep(directory.path, grouped(self.sweep, done), rankings[first], title)
        for name, ranked in rankings.items():
            table = Table(title=name, title_justify="left", header_style="bold", box=None, pad_edge=False)
            for heading in sweep_report.HEADINGS:
                table.add_column(heading, justify="left" if heading == "choice" else "right", overflow="fold")
            for row in sweep_report.table_rows(ranked):
                table.add_row(*row)
            self.console.print(table)
        for note in notes:
            self.console.print(note, style="dim", highlight=False, markup=False)
        self._print(f"written to {directory.path}, picture {picture}")

    def _notes(self, rankings: Mapping[str, Sequence[RankedChoice]]) -> list[str]:
        """Notes below the ranking."""
        price = 100.0 * self.base.reward.param_penalty_weight / self.base.reward.param_budget * 1000
        notes = [
            f"Score of a trial: mean objective of its last {self.sweep.window} rounds, with exploration. "
            f"Objective: validation accuracy with committed seeds only, in points, minus {price:g} for every 1,000 "
            "parameters beyond those of the host. Returns are not compared: each reward mode has its own unit. "
            f"Score of a choice: interquartile mean over its trials, with a {LEVEL:.0%} bootstrap interval over seeds "
            "(stratified by all other settings). Best in: share of the resamples in which no other choice is better. "
            "Only `esper evaluate` uses the test split; it accepts run directories of trials."
        ]
        ranked = [entry for entries in rankings.values() for entry in entries]
        if any(entry.trials < 5 for entry in ranked):
            notes.append(
                "Intervals from fewer than five trials are probably too narrow; one trial has no valid interval."
            )
        if any(entry.stopped for entry in ranked):
            notes.append("Trials that were stopped early count with their score at that time.")
        if self.sweep.scheduler in POPULATION_SCHEDULERS:
            notes.append(
                "Trials of a population copy each other: they are not independent, and the intervals are too narrow. "
                "Their settings change during the sweep: sweep.csv holds the last ones, the manifests their origins."
            )
        return notes

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def checked_host_parameters(trials: Sequence[Trial]) -> dict[str, int]:
    """Host parameters of each trial, all of which can run.

    Raises:
        UsageError: if a trial cannot run; the message has its name.
    """
    cache: dict[str, int] = {}
    counts: dict[str, int] = {}
    for trial in trials:
        config = trial.config
        key = config.model_dump_json(include={"task", "host", "growth", "training"})
        try:
            check_devices(config, on_cluster="RAY_ADDRESS" in os.environ)
            if config.reward.is_own:
                own_reward(config.reward)
            if key not in cache:
                check_run(config)
                cpu = torch.device("cpu")
                cache[key] = build_organism(config, load_task(config.task, cpu), cpu, seed=0).model.host_parameters
        except (UsageError, TaskError, ValueError) as error:
            raise UsageError(f"trial {trial.name}: {error}") from error
        counts[trial.name] = cache[key]
    return counts


def grouped(sweep: SweepConfig, results: Sequence[TrialResult]) -> dict[str, list[TrialResult]]:
    """Trials by choice, which is their varied settings without the seed.

    Settings that a population changes are not part of the choice.
    """
    keys = ["reward.mode"] if sweep.scheduler in POPULATION_SCHEDULERS else ["reward.mode", *sweep.grid]
    groups: dict[str, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(sweep_report.choice_name(result.settings, keys), []).append(result)
    return groups


def rank_choices(sweep: SweepConfig, results: Sequence[TrialResult]) -> dict[str, list[RankedChoice]]:
    """Rankings of the choices and of the values of each varied key.

    Rankings by key are stratified by the other keys and need several varied keys.
    """
    choices = grouped(sweep, results)
    strata = {name: [[s.score_pp for s in group if s.score_pp is not None]] for name, group in choices.items()}
    rankings = {"choices": ranking(strata, {name: _stopped(group) for name, group in choices.items()})}
    keys = [] if sweep.scheduler in POPULATION_SCHEDULERS else ["reward.mode", *sweep.grid]
    varied = [key for key in keys if len({sweep_report.choice_name(s.settings, [key]) for s in results}) > 1]
    for key in varied if len(varied) > 1 else ():
        others = [second for second in varied if second != key]
        cells: dict[str, dict[str, list[float]]] = {}
        stopped: dict[str, int] = {}
        for s in results:
            value, stratum = sweep_report.choice_name(s.settings, [key]), sweep_report.choice_name(s.settings, others)
            if s.score_pp is not None:
                cells.setdefault(value, {}).setdefault(stratum, []).append(s.score_pp)
            stopped[value] = stopped.get(value, 0) + _stopped([s])
        rankings[f"by {key}"] = ranking({value: list(scores.values()) for value, scores in cells.items()}, stopped)
    return rankings


def _stopped(results: Sequence[TrialResult]) -> int:
    return sum(result.status == "stopped" for result in results)
