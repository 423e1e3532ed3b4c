"""The command line as a function, one small finished run, and one Ray head for all jobs."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_builders import Answer, call, only_run, train_below
from head_builders import TOKEN_MODE, running_head

from esper_ray.nissa.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class Finished:
    """A run of two rounds with ``--save``."""

    answer: Answer
    run: RunDirectory
    saved: Path


@pytest.fixture
def esper():
    """``esper("train", "ppo", ...)`` gives exit code, standard output and standard error."""
    return call


@pytest.fixture
def runs(tmp_path):
    """Folder for the runs of a test, not yet created."""
    return tmp_path / "runs"


@pytest.fixture
def train(runs):
    """``train(...)`` is a small serial run below ``runs``."""
    return lambda *more: train_below(runs, *more)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    answer = train_below(folder / "runs", "--rounds", "2", "--save", folder / "saved", drawn=True)
    return Finished(answer, only_run(folder / "runs"), folder / "saved")


@pytest.fixture(scope="session")
def head():
    """A Ray head that requires a token."""
    with running_head(TOKEN_MODE) as running:
        yield running
