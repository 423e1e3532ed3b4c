"""URIs where a command takes a path of this machine, and paths that only look like URIs."""

import pytest
from cli_builders import SMALL, call, only_run

TRAIN = ("train", "ppo", "--serial", *SMALL, "--rounds", "1")
COMMANDS = {
    "--telemetry-dir": (*TRAIN, "--telemetry-dir"),
    "--save": (*TRAIN, "--save"),
    "--config": (*TRAIN, "--config"),
    "--data-dir": (*TRAIN, "--data-dir"),
    "--out": ("evaluate", "static", "--serial", "--seeds", "2", "--out"),
    "--output": ("report", ".", "-o"),
    "--folder": ("dashboards", "check", "--folder"),
    "RUN": ("events",),
    "PLACE": ("report",),
}


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/runs", "file:///tmp/runs"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_uri_in_place_of_a_path_is_refused_without_its_credentials(name, uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(*COMMANDS[name], uri)
    shown = {"s3": "s3:/bucket/runs", "file": "file:/tmp/runs"}[uri.partition(":")[0]]
    assert (answer.code, answer.err) == (2, f"esper: error: {name} {shown}: it is a URI; give a path of this machine\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_a_relative_folder_with_a_colon_holds_a_run_that_every_command_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ("--episode-length", "2", "--set", "training.steps_per_epoch=1", "--set", "task.validation_size=50")
    answer = call("train", "heuristic", *small, "--telemetry-dir", "day-12:30")
    assert answer.code == 0, answer.err
    place = f"day-12:30/{only_run(tmp_path / 'day-12:30').path.name}"
    assert call("sql", place, "SELECT count(*) FROM outcome", "--format", "csv").out.splitlines()[1:] == ["1"]
    answer = call("events", place, "--evidence")
    assert answer.code == 0, answer.err
