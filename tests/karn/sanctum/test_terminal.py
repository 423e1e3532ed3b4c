"""Sanctum in a terminal, by tmux: keys, size, leaving, and what is left behind."""

import json
import os
import signal
import time

import psutil
import pytest
from cli_builders import SMALL
from tmux_builders import ESPER, Terminal, needs_tmux

from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = [needs_tmux, pytest.mark.integration]
TRAIN = " ".join([ESPER, "train ppo --sanctum --serial --preset digits", *SMALL])


@pytest.fixture
def terminal(tmp_path):
    """A terminal in the folder of the test. Commands that outlive it are killed."""
    with Terminal(tmp_path) as terminal:
        yield terminal
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(tmp_path) and process.pid != os.getpid():
            process.kill()


@pytest.mark.nightly  # tmux loses a change of size where two processes of pytest run
def test_the_terminal_is_as_before_after_keys_another_size_and_leaving(run, terminal):
    before = terminal.modes()
    terminal.run(f"{ESPER} sanctum runs/digits-s42")
    terminal.wait_for("8 environments, by number")
    assert terminal.modes()[0][0]
    terminal.press("4")
    terminal.wait_for("operation ")
    terminal.resize(160, 48)
    terminal.press("1")
    terminal.wait_for("blueprint        kept   lost")
    terminal.resize(60, 20)
    terminal.wait_for("needs 80x24, this terminal has 60x20")
    terminal.resize(80, 24)
    terminal.wait_for("8 environments, by number")
    terminal.press("q")
    assert terminal.exit_code() == 0
    assert terminal.modes() == before


@pytest.mark.parametrize(("number", "code"), [("INT", 0), ("TERM", 143), ("HUP", 129)])
def test_ctrl_c_and_signals_leave_the_terminal_as_before(run, terminal, number, code):
    before = terminal.modes()
    terminal.run(f"{ESPER} sanctum runs/digits-s42")
    terminal.wait_for("8 environments, by number")
    if number == "INT":
        terminal.press("C-c")
    else:
        (process,) = [p for p in psutil.process_iter(["cmdline"]) if shows(p, "runs/digits-s42")]
        process.send_signal(signal.Signals[f"SIG{number}"])
    assert terminal.exit_code() == code
    assert terminal.modes() == before


def shows(process, name):
    words = process.info["cmdline"] or []
    return "sanctum" in words and name in words and process.cwd() == os.getcwd()


def pulse(folder):
    return json.loads((folder / "pulse.json").read_text())


def ended(process, seconds=60.0):
    return not psutil.wait_procs([process], timeout=seconds)[1]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_that_is_let_run_is_found_again_and_finishes(tmp_path, terminal):
    terminal.run(f"{TRAIN} --rounds 60 --run-id r")
    terminal.wait_for("esper > r ")
    terminal.press("q")
    terminal.wait_for("let it run")
    terminal.press("Escape")
    terminal.press("C-c")
    terminal.wait_for("let it run")
    terminal.press("l")
    terminal.wait_for("the training continues: esper sanctum runs/r")
    assert terminal.exit_code() == 0
    assert psutil.Process(pulse(tmp_path / "runs" / "r")["pid"]).is_running()
    terminal.run(f"{ESPER} sanctum")
    terminal.wait_for("FINISHED", 100)
    terminal.press("q")
    assert terminal.exit_code() == 0
    console, end = tmp_path / "runs" / "r" / "console.log", time.monotonic() + 60
    while "policy weights sha256" not in console.read_text():  # printed after the run has its status
        assert time.monotonic() < end, console.read_text()
        time.sleep(0.1)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_stopped_run_is_saved_and_gives_the_exit_code_of_ctrl_c(tmp_path, terminal):
    terminal.run(f"{TRAIN} --rounds 5000 --run-id r")
    terminal.wait_for("TRAINING  playing")
    terminal.press("q")
    terminal.wait_for("stop it, a checkpoint is saved")
    terminal.press("s")
    screen = terminal.wait_for("resume with: esper train ppo --resume runs/r")
    assert "SIGINT: stopping" in screen
    assert terminal.exit_code() == 130
    assert RunDirectory.open(tmp_path / "runs" / "r").read_manifest()["status"] == "interrupted"


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_survives_a_closed_terminal(tmp_path, terminal):
    terminal.run(f"{TRAIN} --rounds 5000 --run-id r")
    terminal.wait_for("TRAINING  playing")
    driver = psutil.Process(pulse(tmp_path / "runs" / "r")["pid"])
    viewer = driver.parent()
    terminal.close()
    assert ended(viewer)
    first = pulse(tmp_path / "runs" / "r")["round"]
    end = time.monotonic() + 60
    while pulse(tmp_path / "runs" / "r")["round"] < first + 3:
        assert time.monotonic() < end
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    assert ended(driver)
    assert RunDirectory.open(tmp_path / "runs" / "r").read_manifest()["status"] == "interrupted"


def test_a_refusal_is_shown_without_the_full_screen(tmp_path, terminal):
    terminal.run(f"{ESPER} train ppo --sanctum --preset nowhere")
    terminal.wait_for("esper: error: unknown preset 'nowhere'")
    assert not terminal.modes()[0][0]
    assert terminal.exit_code() == 2
    assert not (tmp_path / "runs").exists()
