"""The command line in this process."""

import io
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from esper_ray.cli.main import main
from esper_ray.nissa.runs.run_directory import RunDirectory

SMALL = [
    *("--envs", "2", "--episode-length", "3", "--memory-size", "16", "--ppo-epochs", "1"),
    *("--set", "policy.feature_size=16", "--set", "training.steps_per_epoch=2", "--set", "training.batch_size=16"),
    *("--set", "task.validation_size=50", "--envs-per-actor", "1"),
]
"""Flags of a run of about one second, in pairs."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Answer:
    """Result of a command."""

    code: int
    out: str
    err: str


def call(*arguments: object, drawn: bool = False) -> Answer:
    """``esper <arguments>``, not on a terminal; signal handlers are restored afterwards.

    Args:
        drawn: whether a run draws its picture, which takes longer than a small run.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["esper", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        for name in ("RAY_ADDRESS", "FORCE_COLOR", "TTY_COMPATIBLE"):
            patch.delenv(name, raising=False)
        if arguments[:1] == ("train",) and not drawn:
            for module in ("cli.jobs.train", "karn.reports.run_summary"):
                patch.setattr(f"esper_ray.{module}.draw_run", lambda run: None)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return Answer(code, out.getvalue(), err.getvalue())


def train_below(folder: Path, *more: object, drawn: bool = False) -> Answer:
    """A small serial run with its directory in ``folder``. A key that ``more`` sets replaces that of ``SMALL``."""
    keys = {str(word).partition("=")[0] for word in more}
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    small = [word for pair in pairs if pair[0] != "--set" or pair[1].partition("=")[0] not in keys for word in pair]
    return call("train", "ppo", "--serial", *small, "--telemetry-dir", folder, *more, drawn=drawn)


def only_run(folder: Path) -> RunDirectory:
    """The one run in ``folder``."""
    (name,) = os.listdir(folder)
    return RunDirectory.open(folder / name)
