"""The recorded run that the tests of Sanctum show."""

import time

import pytest
from sanctum_builders import beat, decide, play, recorded_run, set_times, watched

pytest.importorskip("textual", reason="the extra karn is not installed")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in its fourth round, in the folder ``runs`` of the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    run = recorded_run(tmp_path / "runs")
    decide(run)
    play(run)
    beat(run)
    set_times(run)
    return run


@pytest.fixture
def view(run):
    """What is shown of it two seconds after its last step."""
    return watched(run.path, (0.0, 2.0))
