"""Speed of a training run with viewers attached over that of one without."""

import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.karn.programs import Server, Terminal
from benchmarks.report import Bar
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import as_numbers

PAIRS = 3
ROUNDS = 6
TRAINED_ENVS = 16
SERIAL = os.environ.get("KARN_SERIAL", "") == "1"
"""Whether the environments play in one process instead of one Ray actor each."""
TRAINING_BARS = {"steps/s with viewers over without": Bar(0.95, at_least=True)}


def training_figures(folder: Path) -> dict[str, float]:
    """Median speeds of interleaved runs of 16 environments."""
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(PAIRS):
        for watched in (False, True) if pair % 2 == 0 else (True, False):
            speeds[watched].append(_steps_per_second(folder / f"training-{pair}-{watched}", watched))
    medians = {watched: statistics.median(values) for watched, values in speeds.items()}
    return {
        "steps/s without viewers": medians[False],
        "steps/s with viewers over without": medians[True] / medians[False],
    }


def _steps_per_second(folder: Path, watched: bool) -> float:
    """Median speed of the rounds after the first. Sanctum and a client of the page may be attached."""
    run = folder / "run"
    words = [sys.executable, "-m", "esper_ray", "train", "ppo", "--preset", "digits", "--envs", str(TRAINED_ENVS)]
    words += ["--episode-length", "10", "--rounds", str(ROUNDS), "--telemetry-dir", str(folder), "--run-id", "run"]
    words += ["--serial"] if SERIAL else []
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as driver, ExitStack() as viewers:
        viewers.callback(driver.kill)  # without effect on one that has ended
        _wait_for(run / "live.jsonl", driver)
        if watched:
            viewers.enter_context(Terminal(run)).read_on()
            viewers.enter_context(Server(run)).reader()
        if driver.wait(1800) != 0:
            raise RuntimeError(f"the run in {folder} has failed")
    rows = [as_numbers(row) for row in RunDirectory.open(run).timings()]
    return statistics.median(float(row["env_steps_per_second"]) for row in rows[1:])


def _wait_for(path: Path, driver: subprocess.Popen[bytes]) -> None:
    """
    Raises:
        RuntimeError: if the run ends before it has begun.
    """
    while not path.exists():
        if driver.poll() is not None:
            raise RuntimeError(f"the run has ended before {path} was made")
        time.sleep(0.1)
