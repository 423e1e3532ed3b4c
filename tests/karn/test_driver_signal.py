"""A recording is asked for by a signal only where it reaches the driver and does no harm."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from esper_ray.karn.driver_signal import recording_request

IGNORANT = "import signal, sys\nprint('ready', flush=True)\nsignal.pause()"
HANDLES = IGNORANT.replace("sys\n", "sys\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\n")


@pytest.fixture
def driver():
    """``driver(program)`` is a process that has started, and its pulse."""
    processes = []

    def start(program):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process, {"pid": process.pid, "host": socket.gethostname(), "phase": "playing", "time": time.time()}

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_driver_receives_the_signal(driver):
    process, pulse = driver(HANDLES)
    assert recording_request("runs/r", pulse, gone=False) == (
        "a recording is being written; `esper flight runs/r` shows it"
    )
    assert process.wait(30) == 7


def test_a_process_without_a_handler_is_left_alone(driver):
    process, pulse = driver(IGNORANT)
    assert "does not handle SIGUSR1" in recording_request("r", pulse, gone=False)
    assert process.poll() is None


def test_a_process_that_started_after_the_newest_beat_is_another_program(driver):
    process, pulse = driver(HANDLES)
    line = recording_request("r", pulse | {"time": time.time() - 3600}, gone=False)
    assert "it is another program" in line
    assert process.poll() is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"host": "elsewhere"}, "the driver runs on elsewhere"),
        ({"phase": "ended"}, "the run is over"),
        ({"pid": 2**22 + 1}, "is not seen on this machine"),
    ],
)
def test_other_obstacles_are_named(changes, reason):
    pulse = {"pid": os.getpid(), "host": socket.gethostname(), "phase": "playing", "time": time.time()}
    line = recording_request("r", pulse | changes, gone=False)
    assert reason in line
    assert line.startswith("no recording: ")
    assert line.endswith("`esper flight r` shows what there is")


def test_without_a_pulse_or_a_beat_nothing_is_sent(driver):
    process, pulse = driver(HANDLES)
    assert "no pulse" in recording_request("r", None, gone=False)
    assert "the driver does not beat" in recording_request("r", pulse, gone=True)
    assert process.poll() is None


def test_a_process_of_another_user_is_left_alone(tmp_path, monkeypatch):
    folder = tmp_path / "4711"
    folder.mkdir()
    (tmp_path / "stat").write_text("btime 100\n")
    (folder / "stat").write_text("4711 (a) b) " + "S " * 18 + "0 0 200 ")
    (folder / "status").write_text(f"SigCgt:\t{1 << (signal.SIGUSR1 - 1):016x}\n")
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    pulse = {"pid": 4711, "host": socket.gethostname(), "phase": "playing", "time": 1000.0}
    assert "belongs to another user" in recording_request("r", pulse, gone=False, proc=tmp_path)
