"""A run that is watched, and whose viewers are killed on the way, equals one that nobody looks at."""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from cli_builders import SMALL, train_below
from watching_builders import event_records

from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = [pytest.mark.integration, pytest.mark.nightly, pytest.mark.slow]
ROUNDS = 60
ESPER = [sys.executable, "-m", "esper_ray"]


def pulse(run):
    try:
        return json.loads((run / "pulse.json").read_text())
    except (OSError, ValueError):
        return {"round": -1, "links": {}}


def wait_for_round(run, index):
    end = time.monotonic() + 120.0
    while pulse(run)["round"] < index:
        assert time.monotonic() < end, pulse(run)
        time.sleep(0.02)


def sanctum(run):
    """Sanctum in a pseudo-terminal, which draws everything, and the terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [*ESPER, "sanctum", str(run)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    return process, ours


def drawn(terminal, until, seconds=60.0):
    """Output of a terminal until it holds a text."""
    content, end = b"", time.monotonic() + seconds
    while until not in content:
        assert time.monotonic() < end, content[-500:]
        if select.select([terminal], [], [], 1.0)[0]:
            content += os.read(terminal, 2**16)
    return content


def read_stream(port, name, received):
    """Count the bytes of the stream of a run until it ends."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(f"GET /api/v1/runs/{name}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        try:
            while part := client.recv(2**16):
                received.append(len(part))
        except OSError:
            pass


def test_viewers_that_are_attached_and_killed_change_nothing(tmp_path):
    plain = train_below(tmp_path / "plain", "--rounds", ROUNDS, "--run-id", "r")
    assert plain.code == 0
    run = tmp_path / "watched" / "r"
    command = [*ESPER, "train", "ppo", "--serial", *SMALL, "--rounds", str(ROUNDS), "--run-id", "r"]
    command += ["--telemetry-dir", str(run.parent), "--overwatch", "--overwatch-port", "0"]
    received = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        wait_for_round(run, 1)
        port = int(pulse(run)["links"]["page"].split(":")[2].split("/")[0])
        reader = threading.Thread(target=read_stream, args=(port, "r", received))
        reader.start()
        viewer, terminal = sanctum(run)
        try:
            drawn(terminal, b"environments")
            os.kill(viewer.pid, signal.SIGKILL)
            (server,) = [child for child in psutil.Process(driver.pid).children() if "overwatch" in child.cmdline()]
            server.kill()
            reader.join(10.0)
        finally:
            viewer.kill()
            viewer.wait()
            os.close(terminal)
        killed_in = pulse(run)["round"]
        assert driver.wait(120.0) == 0
    assert sum(received) > 0
    assert killed_in < ROUNDS
    first, second = RunDirectory.open(tmp_path / "plain" / "r"), RunDirectory.open(run)
    assert event_records(first, without=()) == event_records(second, without=())
    assert (first.path / "rounds.csv").read_bytes() == (second.path / "rounds.csv").read_bytes()
    assert first.read_manifest()["policy_sha256"] == second.read_manifest()["policy_sha256"]
    assert second.faults() == []
