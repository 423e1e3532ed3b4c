"""Ctrl-C, SIGTERM and SIGHUP: the run stops at a safe point, prints how to resume, and resumes without a difference."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
from cli_builders import SMALL, only_run

from esper_actors.training.stop_request import StopRequest
from esper_ray.karn.console.progress import PlainProgress

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture
def send_signal_after(monkeypatch):
    """``send_signal_after(signal, episode, times)``: this process gets the signal at the end of that episode."""

    def patch_observer(number, episode, times=1):
        def episode_finished(self, finished):
            if finished.index == episode:
                for _ in range(times):
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(PlainProgress, "episode_finished", episode_finished)

    return patch_observer


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_ends_a_run_with_its_code_and_the_command_to_resume(
    number, send_signal_after, train, esper, runs, finished
):
    """The second of two episodes of the second round is not played; the resumed run equals one without a signal."""
    send_signal_after(number, episode=2)
    answer = train("--rounds", "2")
    run = only_run(runs)
    assert answer.code == CODES[number]
    assert f"{number.name}: stopping" in answer.err
    assert "stopped after 1 of 2 rounds" in answer.out
    assert run.read_manifest()["status"] == "interrupted"
    assert len(run.rounds()) == 1

    command = re.search(r"resume with: (.*)", answer.out)[1]
    assert command == f"esper train ppo --resume {run.path}"
    send_signal_after(number, episode=-1)
    resumed = esper(*shlex.split(command)[1:])
    assert resumed.code == 0
    assert "resumed after round 1" in resumed.out
    assert run.read_manifest()["status"] == "finished"
    digest = run.read_manifest()["policy_sha256"]
    assert digest in resumed.out

    assert digest in finished.answer.out
    assert (run.path / "rounds.csv").read_bytes() == (finished.run.path / "rounds.csv").read_bytes()


def test_a_second_ctrl_c_aborts_the_run_at_once(send_signal_after, train, runs):
    send_signal_after(signal.SIGINT, episode=0, times=2)
    answer = train("--rounds", "2")
    assert answer.code == 130
    assert only_run(runs).read_manifest()["status"] == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_heuristic_run_prints_its_episodes(number, esper, runs, monkeypatch):
    monkeypatch.setattr("esper_ray.cli.jobs.train.HeuristicJob._show", lambda *arguments: os.kill(os.getpid(), number))
    answer = esper(*("train", "heuristic", "--episodes", "2", "--episode-length", "2", "--telemetry-dir", runs))
    assert answer.code == CODES[number]
    run = only_run(runs)
    assert run.read_manifest()["status"] == "interrupted"
    assert [event["kind"] for event in run.events()].count("outcome") == 1


def test_handlers_are_restored_and_exit_codes_depend_on_the_signal():
    before = [signal.getsignal(number) for number in CODES]
    with StopRequest() as stop:
        assert (stop(), stop.exit_code) == (False, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop(), stop.exit_code) == (True, 143)
        with pytest.raises(SystemExit, match="130"):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # a second request to stop is equal to the first
    assert [signal.getsignal(number) for number in CODES] == before


@pytest.mark.nightly
@pytest.mark.parametrize("number", CODES)
def test_a_signal_from_another_process_ends_the_program_in_the_same_way(number, runs):
    """A real process that gets the signal after the first line of a round."""
    command = [sys.executable, "-m", "esper_ray.cli.main", "train", "ppo", "--serial", *SMALL, "--rounds", "500"]
    command += ["--telemetry-dir", str(runs)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment) as process:
        for line in process.stdout:
            if line.startswith("round 1/"):
                process.send_signal(number)
                break
        out, err = process.communicate(timeout=60)
    run = only_run(runs)
    assert process.returncode == CODES[number]
    assert f"{number.name}: stopping" in err
    assert "Traceback" not in err
    assert f"resume with: esper train ppo --resume {run.path}" in out
    assert run.read_manifest()["status"] == "interrupted"
    assert len(run.rounds()) >= 1


def can_have_a_first_process():
    """Whether this machine lets a program be the first process of a namespace, as in a container."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "true"]
    return bool(shutil.which("unshare")) and not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_the_first_process_of_a_container(number, runs):
    """The first process ignores signals that it has no handler for."""
    if not can_have_a_first_process():
        pytest.skip("unshare --pid is not permitted on this machine")
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "esper_ray.cli.main", "train"]
    command += ["heuristic", "--episodes", "500", "--episode-length", "5", "--telemetry-dir", str(runs)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as process:
        for line in process.stdout:
            if line.startswith("episode 0"):
                (first,) = psutil.Process(process.pid).children()
                first.send_signal(number)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == CODES[number]
    assert f"{number.name}: stopping" in err
    assert "episodes are saved in" in out
    assert only_run(runs).read_manifest()["status"] == "interrupted"
