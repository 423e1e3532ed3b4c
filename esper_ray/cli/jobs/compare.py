"""Comparison job of ``--dual-ab A-vs-B``: two concurrent runs under two reward modes, and a verdict."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from esper_actors.evaluation.candidates import load_candidate
from esper_actors.factory import join_cluster
from esper_actors.training.run_preparation import PreparedRun, prepare_run, run_by_name
from esper_actors.training.stop_request import StopRequest
from esper_ray.cli.jobs.evaluate import EvaluationJob
from esper_ray.cli.jobs.train import PPOJob
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.config.reward_pair import SEPARATOR, Pair
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.files.durable import write_file
from esper_ray.leyline.results.evaluation import ComparisonVerdict
from esper_ray.nissa.runs.copies.storage import place_within
from esper_ray.nissa.runs.run_directory import Names
from esper_ray.simic.comparison import verdict


def split(config: RunConfig, pair: Pair) -> tuple[RunConfig, RunConfig]:
    """Configuration of each side, with its reward mode and its own GPUs.

    Raises:
        UsageError: if there are not enough GPUs for both.
    """
    system = config.system
    sides = []
    for side, (_, mode) in enumerate(pair.sides):
        devices = system.devices if set(system.devices) == {"cpu"} else tuple(dict.fromkeys(system.devices))[side::2]
        if not devices:
            raise UsageError(f"--dual-ab needs a device for each side, got --devices {', '.join(system.devices)}")
        learner = "cpu" if system.device == "cpu" else devices[0]
        changes = {"reward.mode": mode, "system.devices": list(devices), "system.device": learner}
        sides.append(build(config.model_dump(mode="json"), changes))
    return sides[0], sides[1]


class ComparisonJob:
    """Job that trains two runs, evaluates both and computes a verdict."""

    def __init__(
        self,
        config: RunConfig,
        pair: Pair,
        parent: Path,
        *,
        seeds: Sequence[int],
        command: Sequence[str],
        run_id: str | None,
        storage: str | None,
        notes: Sequence[str] = (),
    ) -> None:
        """
        Args:
            seeds: seeds of the evaluation, the same for both sides.
            run_id: name of the comparison; an existing comparison is resumed.
            notes: lines below the headline of each run.

        Raises:
            UsageError: if there are not enough devices, or a run has another configuration.
        """
        self.pair, self.seeds = pair, seeds
        self.local = config.system.workers == "local"
        self.console = Console()
        name = run_id or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config.name}-{pair.first}{SEPARATOR}{pair.second}"
        self.folder = parent / name
        place = None if storage is None else place_within(storage, name)
        self.sides = split(config, pair)
        runs: list[PreparedRun] = []
        try:
            for side, (label, _) in zip(self.sides, pair.sides, strict=True):
                run = run_by_name(label, self.folder, place, self._print) or self.folder / label
                names = Names(name, label)  # both runs share the name of the comparison
                runs.append(prepare_run(side, run, storage=place, names=names, command=command))
        except BaseException:
            for prepared in runs:
                prepared.release()
            raise
        self.jobs = [
            PPOJob(run, label=label, notes=notes, is_side=True)
            for run, (label, _) in zip(runs, pair.sides, strict=True)
        ]

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def run(self) -> int:
        """Exit code: 0 with a verdict, 129, 130 or 143 after a signal."""
        with StopRequest() as stop, nullcontext() if self.local else join_cluster(self.sides):
            stop.listen()
            codes = [job.run_until(stop) for job in self.jobs] if self.local else self._together(stop)
            return max(codes) or self._judge(stop)

    def _together(self, stop: StopRequest) -> list[int]:
        """Exit codes of both runs, trained concurrently. A failure of one stops the other; both can be resumed."""
        with ThreadPoolExecutor(len(self.jobs)) as pool:
            futures = [pool.submit(job.run_until, stop) for job in self.jobs]
            running = set(futures)
            while running:  # short timeouts, so that signals are handled
                done, running = wait(running, timeout=0.2)
                if any(future.exception() is not None for future in done):
                    stop.request()
        return [future.result() for future in futures]

    def _judge(self, stop: StopRequest) -> int:
        names = [f"{mode}={self.folder / label}" for label, mode in self.pair.sides]
        candidates = [load_candidate(name)[0] for name in names]
        job = EvaluationJob(
            self.sides[0],
            candidates,
            (),
            self.pair.second,
            self.seeds,
            self.folder / "evaluation",
            sample=False,
            repeated=True,
        )
        code = job.run()
        if code or stop():
            return code
        first, second = (
            {s.seed: s.objective_pp for s in job.scores if s.policy == mode} for _, mode in self.pair.sides
        )
        result = verdict([first[seed] - second[seed] for seed in self.seeds])
        write_file(
            self.folder / "verdict.json", json.dumps(asdict(result) | {"pair": asdict(self.pair)}, indent=2) + "\n"
        )
        self._print(describe(result, self.pair))
        self._print(f"written to {self.folder}")
        return 0


def describe(result: ComparisonVerdict, pair: Pair) -> str:
    """The verdict as text."""
    headings = {
        "first": f"A is better: {pair.first}",
        "second": f"B is better: {pair.second}",
        "undecided": "undecided",
    }
    seeds_needed = "the difference is 0"
    if result.seeds_needed is not None:
        seeds_needed = f"a difference of this size needs about {result.seeds_needed} seeds"
    return (
        f"verdict: {headings[result.better]}. Objective of {pair.first} minus {pair.second}: "
        f"{result.difference.signed} points on {result.seeds} paired seeds; {seeds_needed}. It holds for these two "
        "trained policies; a sweep over training seeds compares the reward modes themselves."
    )
