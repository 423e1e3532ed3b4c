"""``--sanctum`` and ``--overwatch`` of the commands that train."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from cli_builders import SMALL, call, train_below

from esper_ray.cli.commands.training.watching import without_sanctum
from esper_ray.nissa.runs.run_directory import RunDirectory

COMMANDS = (("train", "ppo"), ("train", "heuristic"), ("sweep",))


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_terminal_sanctum_is_refused_and_nothing_is_started(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(*command, "--sanctum")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith("esper: error: --sanctum needs a terminal")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_taken_port_is_refused_before_anything_is_trained(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = call(*command, "--overwatch", "--overwatch-port", port)
    assert answer.code == 2
    assert f"port {port} of 127.0.0.1 is not free" in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_the_page_without_it_are_refused(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(*command, "--keep")
    assert answer.code == 2
    assert "--keep belongs to --overwatch" in answer.err


def test_the_command_that_is_started_differs_in_sanctum_alone():
    words = ["train", "ppo", "--sanctum", "--slots", "r0c0", "r0c1", "--overwatch", "--keep"]
    assert without_sanctum(words) == ["train", "ppo", "--slots", "r0c0", "r0c1", "--overwatch", "--keep"]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_with_a_page_equals_one_without_and_names_its_page(tmp_path):
    plain = train_below(tmp_path / "plain", "--rounds", "3", "--run-id", "r")
    paged = train_below(tmp_path / "paged", "--rounds", "3", "--run-id", "r", "--overwatch", "--overwatch-port", "0")
    assert (plain.code, paged.code) == (0, 0)
    address = re.search(r"^page of the run (http://127\.0\.0\.1:\d+/runs/r)$", paged.out, re.MULTILINE)[1]
    first, second = (RunDirectory.open(tmp_path / name / "r") for name in ("plain", "paged"))
    assert (first.path / "rounds.csv").read_bytes() == (second.path / "rounds.csv").read_bytes()
    assert first.read_manifest()["policy_sha256"] == second.read_manifest()["policy_sha256"]
    assert address in (second.path / "pulse.json").read_text()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(re.search(r":(\d+)/", address)[1]))) != 0


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_of_the_heuristic_has_a_page_while_it_lasts(tmp_path):
    answer = call(
        *("train", "heuristic", "--preset", "digits", "--episode-length", "3", "--set", "training.steps_per_epoch=2"),
        *("--telemetry-dir", tmp_path, "--overwatch", "--overwatch-port", "0"),
    )
    assert answer.code == 0
    port = int(re.search(r"^page http://127\.0\.0\.1:(\d+)/$", answer.out, re.MULTILINE)[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.nightly
@pytest.mark.slow
def test_a_kept_page_is_served_after_the_run_until_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "esper_ray", "train", "ppo", "--serial", *SMALL, "--rounds", "1"]
    command += ["--telemetry-dir", str(tmp_path), "--overwatch", "--overwatch-port", "0", "--keep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}) as process:
        line = next(line for line in process.stdout if line.startswith("the page stays at"))
        port = int(re.search(r":(\d+)/", line)[1])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == 0
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 0
