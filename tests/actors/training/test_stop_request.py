"""Requests to stop by SIGHUP: from a closed terminal, and ignored as under ``nohup``."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from esper_actors.training.stop_request import StopRequest
from esper_ray.cli.signals import exit_on_signals

WAITING = """
import os, sys, time
os.close(os.open(os.ttyname(0), os.O_RDWR))  # a session leader gets this terminal
from esper_actors.training.stop_request import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("saved", flush=True)
with open(sys.argv[1], "w") as file:
    file.write(str(stop.exit_code))
"""


@pytest.fixture
def hangup():
    """Send SIGHUP to this process; its handler is restored afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    yield lambda: os.kill(os.getpid(), signal.SIGHUP)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_hangup_requests_a_stop_with_its_exit_code(hangup):
    with StopRequest() as stop:
        hangup()
        assert (stop(), stop.exit_code) == (True, 129)


def test_an_ignored_hangup_stays_ignored(hangup):
    """As ``nohup`` starts a program."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    exit_on_signals()
    with StopRequest() as stop:
        stop.listen()
        hangup()
        assert not stop()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_hangup_before_a_job_ends_the_program(hangup):
    exit_on_signals()
    with pytest.raises(SystemExit, match="129"):
        hangup()


@pytest.mark.slow
def test_a_closed_terminal_stops_the_program_and_takes_no_more_output(tmp_path):
    """Writing to a terminal that has been closed is an error; the program ends in order without it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", WAITING, str(tmp_path / "code")]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    text = b""
    while b"ready" not in text:
        text += os.read(ours, 1000)
    os.close(ours)
    assert process.wait(30) == 0
    deadline = time.monotonic() + 5
    while not (tmp_path / "code").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "code").read_text() == "129"
