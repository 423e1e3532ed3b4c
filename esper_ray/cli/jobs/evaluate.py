"""Evaluation job of ``esper evaluate``: episodes, comparison and report."""

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from esper_actors.evaluation.candidates import FOUND_SCRIPT, SCRATCH, SCRATCH_FLOPS, WIDE, Candidate
from esper_actors.evaluation.pool import EvaluatorPool, all_scores
from esper_actors.evaluation.scratch import Search
from esper_actors.evaluation.script_search import FIRST_SCRIPT_SEED, best_script, first_scripts, random_scripts
from esper_actors.factory import make_evaluators
from esper_actors.rollout.runner import Interrupted
from esper_actors.training.stop_request import StopRequest
from esper_ray.karn.console.lines import ProgressLines
from esper_ray.karn.reports import evaluation_report
from esper_ray.karn.reports.html.evaluation_content import EVALUATION
from esper_ray.karn.reports.learning_curve import draw_learning, objective_by_round
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.files.durable import write_file
from esper_ray.leyline.files.paths import unused_paths
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.policy import stored_name
from esper_ray.leyline.results.evaluation import PairedComparison, Score, Summary
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.simic.comparison import LEVEL, paired_comparisons, summaries
from esper_ray.simic.live.engine import needs_control
from esper_ray.tolaria.assembly import build_organism, growth_limits
from esper_ray.tolaria.tasks import load_task

SCRATCH_NETWORK = "the final topology trained from scratch"
MAX_WIDTH = 1000
"""Width in columns that is larger than that of any table."""


def check_candidates(config: RunConfig, candidates: Sequence[Candidate]) -> None:
    """Check that every candidate can play under ``config``, before anything starts.

    Raises:
        UsageError: if one cannot.
        CandidateError: if one was trained on other features or with other blueprints.
    """
    limits, topologies = configured_limits(config)
    for entry in candidates:
        entry.check_serves(topologies, config.growth)
        try:
            entry.policy(limits, config.task.name, "cpu", greedy=True)
        except ValueError as error:
            raise UsageError(f"{entry.label} cannot play under this configuration: {error}") from error


def configured_limits(config: RunConfig) -> tuple[Limits, dict[str, Topology]]:
    """Limits of a configuration, and the topology of each slot."""
    device = torch.device("cpu")
    model = build_organism(config, load_task(config.task, device), device, seed=0).model
    return growth_limits(config.growth, model, config.episode_length), {
        slot: model.cell(slot).shape.topology for slot in model.slot_ids
    }


class EvaluationJob:
    """Job that plays episodes, compares policies and writes the report."""

    def __init__(
        self,
        config: RunConfig,
        candidates: Sequence[Candidate],
        unsteered: Sequence[str],
        control: str,
        seeds: Sequence[int],
        folder: Path,
        *,
        sample: bool,
        repeated: bool = False,
        script_lives: int | None = None,
    ) -> None:
        """
        Args:
            folder: a new or an empty folder.
            script_lives: episodes of a search for the best script, which is evaluated too; ``None``: no search.
            repeated: whether a finished evaluation in ``folder`` is renamed, and a partial one replaced.
        """
        self.repeated, self.script_lives = repeated, script_lives
        self.finding_flops: dict[str, float] = {}
        """Operations that were spent once to find a policy, by label."""
        self.config, self.candidates, self.unsteered = config, list(candidates), tuple(unsteered)
        self.control, self.seeds, self.folder, self.sample = control, seeds, folder, sample
        self.console = Console()
        self.scores: list[Score] = []
        """Scores of all episodes so far, in the order of arrival."""

    def run(self, workers: int | None = None) -> int:
        """Exit code: 0 when the report is written, 129, 130 or 143 after a signal, with only ``scores.csv`` written.

        Args:
            workers: number of actors; default: one for each CPU of the cluster.

        Raises:
            UsageError: if the folder is not empty, or cannot be written.
        """
        self._make_folder()
        self.console.print(self._headline(), highlight=False, soft_wrap=True)
        try:
            with StopRequest() as stop:
                stop.listen()
                if self.script_lives is not None:
                    self._find_script(self.script_lives, workers, stop)
                by_label = {entry.label: entry for entry in self.candidates}
                with make_evaluators(self.config, by_label, greedy=not self.sample, workers=workers) as players:
                    self.console.print(players.describe(), highlight=False, soft_wrap=True)
                    scores = self._play(players, list(by_label), stop)
        except Interrupted:
            self._write_partial_scores()
            return stop.exit_code
        except BaseException:
            self._write_partial_scores()
            raise
        by_policy = summaries(scores, self.control, self.finding_flops | self._training_flops(scores))
        self._write(scores, by_policy)
        self._show(by_policy, paired_comparisons(scores, self._reference))
        return 0

    def _find_script(self, lives: int, workers: int | None, stop: StopRequest) -> None:
        """Search for the best script, and make it a candidate."""
        limits = configured_limits(self.config)[0]
        scripts = random_scripts(limits, self.config.episode_length, first_scripts(lives), self.config.seed)
        with make_evaluators(self.config, scripts, greedy=True, workers=workers) as players:
            found = best_script(players, scripts, stop)
        self.candidates.append(found.candidate())
        self.finding_flops[FOUND_SCRIPT] = found.flops
        lines = [line.model_dump(mode="json") for line in found.script]
        write_file(self.folder / f"{FOUND_SCRIPT}.json", json.dumps(lines, indent=2) + "\n")
        self.console.print(
            f"{FOUND_SCRIPT}: the best of {len(scripts)} random scripts after {found.lives} episodes on seeds from "
            f"{FIRST_SCRIPT_SEED} on; objective there {found.objective_pp:.1f}",
            highlight=False,
            soft_wrap=True,
        )

    def _training_flops(self, scores: Sequence[Score]) -> dict[str, float]:
        """Operations of the training of learned policies: as many episodes as they had, at the mean cost here."""
        means = {
            label: fmean(s.train_flops for s in scores if s.policy == label) for label in {s.policy for s in scores}
        }
        control = means.get("static", 0.0) if needs_control(self.config.reward) else 0.0
        return {e.label: e.episodes * (means[e.label] + control) for e in self.candidates if e.episodes is not None}

    def _play(self, players: EvaluatorPool, labels: Sequence[str], stop: StopRequest) -> list[Score]:
        def status() -> str:
            return f"{len(self.scores)} of {self._total} episodes played"

        plain = nullcontext() if self.console.is_terminal else ProgressLines(self.console, status)
        with _bar(self.console) as bar, plain:
            task = bar.add_task("playing", total=self._total)

            def on_score(score: Score) -> None:
                self.scores.append(score)
                bar.update(task, advance=1, description=f"{score.policy}, seed {score.seed}")

            return all_scores(players, labels, self.unsteered, self._reference, self.seeds, on_score, stop)

    @property
    def _total(self) -> int:
        """Number of episodes of the evaluation."""
        return (len(self.candidates) + len(self.unsteered)) * len(self.seeds)

    def _make_folder(self) -> None:
        scores = self.folder / "scores.csv"
        try:
            if self.repeated:
                _set_aside(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.repeated and any(self.folder.iterdir()):
                raise UsageError(f"--out {self.folder}: it is not empty; choose a new folder")
            scores.touch(exist_ok=self.repeated)
        except OSError as error:
            raise UsageError(f"cannot write to the folder {self.folder}: {error.strerror or error}") from error

    def _write_partial_scores(self) -> None:
        """Write the scores of an interrupted evaluation."""
        path = evaluation_report.write_scores(self.folder, self.scores)
        self.console.print(
            f"stopped after {len(self.scores)} of {self._total} episodes, without a comparison; their scores are in "
            f"{path}",
            highlight=False,
            soft_wrap=True,
        )

    def _headline(self) -> str:
        names = ", ".join([*(entry.label for entry in self.candidates), *self.unsteered])
        config = self.config
        return (
            f"{config.name}: task {config.task.name}, {len(self.seeds)} seeds from {self.seeds[0]}, "
            f"episodes of {config.episode_length} epochs; {names}"
        )

    def _write(self, scores: Sequence[Score], by_policy: Sequence[Summary]) -> None:
        title = f"{self.config.name}: {len(self.seeds)} paired seeds, {self.seeds[0]} to {self.seeds[-1]}"
        mode = "sampled actions, without exploration" if self.sample else "greedy actions"
        notes = [f"Episodes of {self.config.episode_length} epochs, {mode}.", *self._notes()]
        evaluation_report.write_scores(self.folder, scores)
        evaluation_report.write_summary(self.folder, by_policy)
        evaluation_report.write_markdown(
            self.folder, by_policy, paired_comparisons(scores, self._reference), title, notes
        )
        evaluation_report.draw_comparison(self.folder, scores, by_policy, title)
        self._draw_learning(scores, by_policy)
        manifest = {
            "config": self.config.model_dump(mode="json"),
            "config_sha256": self.config.digest(),
            "control": self.control,
            "seeds": list(self.seeds),
            "sample": self.sample,
            "summaries": [{stored_name(name): value for name, value in asdict(entry).items()} for entry in by_policy],
            "comparisons": [asdict(entry) for entry in paired_comparisons(scores, self._reference)],
        }
        write_file(self.folder / EVALUATION, json.dumps(manifest, indent=2) + "\n")

    def _draw_learning(self, scores: Sequence[Score], by_policy: Sequence[Summary]) -> None:
        """Draw the learning curves of candidates from runs with an equal environment."""
        first = scores[0]
        price_pp = 100.0 * self.config.reward.param_penalty_weight / self.config.reward.param_budget
        curves = {}
        for entry in self.candidates:
            run = None if entry.run is None else RunDirectory.open(entry.run)
            if run is not None and run.config().environment_digest() == self.config.environment_digest():
                curves[entry.label] = objective_by_round(run, first.parameters - first.grown_parameters, price_pp)
        if curves:
            title = f"{self.config.name}: learning, and an evaluation on seeds {self.seeds[0]} to {self.seeds[-1]}"
            draw_learning(self.folder / "learning.png", curves, by_policy, title)

    def _notes(self) -> list[str]:
        """Notes below the table."""
        reward = self.config.reward
        price = 100.0 * reward.param_penalty_weight / reward.param_budget * 1000
        notes = [
            f"Gains are over {self.control}, paired by seed; brackets are {LEVEL:.0%} bootstrap intervals over seeds. "
            f"Objective: validation accuracy in points, minus {price:g} for every 1,000 parameters beyond those of the "
            "host. Spread: standard deviation of the test accuracy over seeds. Fossils: committed seeds in the "
            "final network. Frontier: no other policy is at least as good in test accuracy, parameters, rollbacks and "
            "spread, and better in one of them."
        ]
        if self.unsteered:
            meanings = "; ".join(f"{name}: {_meaning(name)}" for name in self.unsteered)
            notes.append(f"Controls follow the final networks of {self._reference}, seed by seed. {meanings}.")
        tried = [f"{e.label} is the best of {e.tries} growths by the objective" for e in self.candidates if e.tries > 1]
        if self.finding_flops or any(entry.episodes is not None for entry in self.candidates):
            tried.append(
                "GFLOP to find: spent once, for all seeds; that of a learned policy is its number of training episodes "
                "times the mean cost of an episode here"
            )
        return [*notes, *(f"{sentence[0].upper()}{sentence[1:]}." for sentence in tried)]

    @property
    def _reference(self) -> str:
        return self.candidates[0].label

    def _show(self, by_policy: Sequence[Summary], comparisons: Sequence[PairedComparison]) -> None:
        width = self.console.width
        for headings, rows in evaluation_report.layouts(by_policy):
            table = Table(header_style="bold", box=None, pad_edge=False, collapse_padding=True)
            for name in headings:
                is_text = name in ("policy", "")
                table.add_column(name, justify="left" if is_text else "right", overflow="fold")
            for row in rows:
                table.add_row(*map(Text, row))
            if Measurement.get(self.console, self.console.options.update(width=MAX_WIDTH), table).maximum <= width:
                break
        self.console.print(table)
        for comparison in comparisons:
            self.console.print(evaluation_report.comparison_line(comparison), highlight=False, markup=False)
        for note in self._notes():
            self.console.print(note, style="dim", highlight=False, markup=False)
        self.console.print(f"written to {self.folder}", highlight=False, soft_wrap=True)


def _meaning(control: str) -> str:
    """What a control without a policy is."""
    search = Search.parse(control)
    if search is None:
        return {
            WIDE: "the host alone with as many parameters from the start",
            SCRATCH: SCRATCH_NETWORK,
            SCRATCH_FLOPS: f"{SCRATCH_NETWORK}, with as many operations as the growth",
        }[control]
    how = "successive halving (ASHA) over" if search.halving else "the best of"
    return f"{how} random topologies trained from scratch, with {search.times} times the operations of the growth"


def _set_aside(folder: Path) -> None:
    """Rename ``folder``, if it holds a finished evaluation."""
    if (folder / EVALUATION).is_file():
        os.rename(folder, next(unused_paths(folder.parent, f"{folder.name}-earlier")))


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
