"""Commands of the studies. What is done already is not repeated; what was interrupted is resumed."""

import csv
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evidence import paths
from evidence.joining import joined
from evidence.studies import Comparison, Training

CONSOLE = Console()


def training_command(training: Training, rounds: int | None = None) -> list[str]:
    """The command that starts a training, or resumes it.

    Args:
        rounds: stop after so many rounds; the schedules are those of the whole training.
    """
    words = ["train", "ppo", "--preset", training.preset, "--seed", str(training.seed), "--run-id", training.name]
    for key, value in training.settings.items():
        words += ["--set", f"{key}={value}"]
    return words if rounds is None else [*words, "--rounds", str(rounds)]


def esper(words: list[str]) -> None:
    """Run a command of esper.

    Raises:
        SystemExit: with its exit code, unless that is 0.
    """
    CONSOLE.print("$ esper", *words, soft_wrap=True, highlight=False)
    code = subprocess.run([str(paths.ESPER), *words], cwd=paths.ROOT, check=False).returncode
    if code:
        raise SystemExit(code)


def rounds_done(training: Training) -> list[dict[str, str]]:
    """Lines of ``rounds.csv`` of a training; empty before its first round."""
    path = paths.RUNS / training.name / "rounds.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def train(training: Training, serial: bool, *, rounds: int, schedule: int | None = None) -> None:
    """Train up to ``rounds`` rounds in all.

    Args:
        schedule: rounds of the schedules, if the training may go on later.
    """
    if len(rounds_done(training)) >= rounds:
        return
    words = [*training_command(training, rounds), "--telemetry-dir", str(paths.RUNS)]
    if schedule is not None:
        words += ["--set", f"ppo.schedule_rounds={schedule}"]
    esper([*words, "--serial"] if serial else words)


def evaluate(name: str, training: Training, words: Sequence[str], seeds: str, serial: bool) -> Path:
    """The folder of an evaluation, which is played if it is not there.

    Args:
        words: policies, controls and options beside the trained policy and the seeds.
    """
    folder = paths.EVALUATIONS / name
    if not (folder / "evaluation.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = ["evaluate", str(paths.RUNS / training.name), *words, "--seeds", seeds, "--out", str(folder)]
        esper([*command, "--serial"] if serial else command)
    return folder


def compare(comparison: Comparison, serial: bool, rounds: int) -> Path:
    """The results of a comparison, among the documentation."""
    train(comparison.training, serial, rounds=rounds)
    folders = [
        evaluate(f"{comparison.name}-{number}", comparison.training, words, comparison.seeds, serial)
        for number, words in enumerate(comparison.parts, start=1)
    ]
    return joined(comparison, folders)
