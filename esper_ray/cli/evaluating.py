"""The work of ``esper evaluate``, from the first episode to the picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from actors.contestants import Contestant
from actors.evaluation_pool import all_scores, make_players
from actors.rollout import Interrupted
from esper_ray.cli.errors import UsageError
from esper_ray.cli.signals import StopRequest
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.scores import Score, Summary
from esper_ray.nissa import scoreboard
from esper_ray.simic.comparison import LEVEL, summaries
from esper_ray.tolaria.assembly import build_organism, growth_limits
from esper_ray.tolaria.tasks import load_task


def environment_of(config: RunConfig, contestants: Sequence[Contestant]) -> None:
    """See that every contestant can play under ``config``, before anything is started.

    Raises:
        UsageError: if one cannot.
    """
    device = torch.device("cpu")
    organism = build_organism(config, load_task(config.task, device), device, seed=0)
    limits = growth_limits(config.growth, organism.model)
    for entry in contestants:
        try:
            entry.policy(limits, config.task.name, "cpu", greedy=True)
        except ValueError as error:
            raise UsageError(f"{entry.label} cannot play here: {error}") from error


class EvaluationJob:
    """Plays, compares, writes."""

    def __init__(
        self,
        config: RunConfig,
        contestants: Sequence[Contestant],
        unsteered: Sequence[str],
        control: str,
        seeds: Sequence[int],
        folder: Path,
        *,
        sample: bool,
    ) -> None:
        self.config, self.contestants, self.unsteered = config, list(contestants), tuple(unsteered)
        self.control, self.seeds, self.folder, self.sample = control, seeds, folder, sample
        self.console = Console()

    def run(self, *, serial: bool, workers: int | None) -> int:
        """Exit code: 0 when all is played and written, 130 or 143 after a signal; nothing is written then."""
        import os

        by_label = {entry.label: entry for entry in self.contestants}
        reference = self.contestants[0].label
        total = (len(by_label) + len(self.unsteered)) * len(self.seeds)
        wanted = workers or os.cpu_count() or 1
        players = make_players(self.config, by_label, serial=serial, greedy=not self.sample, workers=wanted)
        self.console.print(self._headline(), highlight=False, soft_wrap=True)
        with StopRequest() as stop, players, _bar(self.console) as bar:
            task = bar.add_task("playing", total=total)

            def on_score(score: Score) -> None:
                bar.update(task, advance=1, description=f"{score.policy}, seed {score.seed}")

            try:
                scores = all_scores(players, list(by_label), self.unsteered, reference, self.seeds, on_score, stop)
            except Interrupted:
                self.console.print("stopped: nothing was written")
                return stop.exit_code
        found = summaries(scores, self.control)
        self._write(scores, found)
        self._show(found)
        return 0

    def _headline(self) -> str:
        names = ", ".join([*(entry.label for entry in self.contestants), *self.unsteered])
        config = self.config
        return (
            f"{config.name}: task {config.task.name}, {len(self.seeds)} seeds from {self.seeds[0]}, "
            f"episodes of {config.episode_length} epochs; {names}"
        )

    def _write(self, scores: Sequence[Score], found: Sequence[Summary]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        title = f"{self.config.name}: {len(self.seeds)} paired seeds from {self.seeds[0]} to {self.seeds[-1]}"
        reward = self.config.reward
        price = 100.0 * reward.param_penalty_weight / reward.param_budget * 1000
        notes = [
            f"Episodes of {self.config.episode_length} epochs, no exploration. Objective: validation accuracy in "
            f"points minus {price:g} for every 1,000 parameters beyond those of the host. Brackets: {LEVEL:.0%} "
            f"bootstrap intervals over seeds; the gain is in the objective, over {self.control}, paired by seed. "
            "Spread: standard deviation of the test accuracy over seeds. Frontier: no other is at least as good in "
            "test accuracy, parameters, rollbacks and spread."
        ]
        if self.unsteered:
            notes.append(f"{' and '.join(self.unsteered)} are made after the final networks of {self._reference}.")
        scoreboard.write_scores(self.folder, scores)
        scoreboard.write_summary(self.folder, found)
        scoreboard.write_markdown(self.folder, found, title, notes)
        scoreboard.draw_comparison(self.folder, scores, found, title)
        manifest = {
            "config": self.config.model_dump(mode="json"),
            "config_sha256": self.config.digest(),
            "control": self.control,
            "seeds": list(self.seeds),
            "sample": self.sample,
            "summaries": [asdict(summary) for summary in found],
        }
        (self.folder / "evaluation.json").write_text(json.dumps(manifest, indent=2) + "\n")

    @property
    def _reference(self) -> str:
        return self.contestants[0].label

    def _show(self, found: Sequence[Summary]) -> None:
        table = Table(header_style="bold", box=None, title=f"control: {self.control}", title_justify="left")
        for name in scoreboard.COLUMNS:
            is_text = name in ("policy", "")
            table.add_column(name, justify="left" if is_text else "right", overflow="fold")
        for row in scoreboard.table_rows(found):
            table.add_row(*row)
        self.console.print(table)
        self.console.print(f"written to {self.folder}", highlight=False, soft_wrap=True)


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
