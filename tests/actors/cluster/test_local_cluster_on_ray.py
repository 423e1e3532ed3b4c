"""Real local clusters: their listening sockets and folders, long TMPDIR, and Ctrl-C while they start."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from cli_builders import SMALL

pytestmark = [pytest.mark.ray, pytest.mark.integration, pytest.mark.slow]

LISTENERS = """
from esper_actors.cluster.settings import choose_ray_settings
choose_ray_settings()
import json, time, psutil
from esper_actors.cluster.connection import connected
import ray

@ray.remote
class Counting:
    def __init__(self):
        from ray.util.metrics import Counter
        self.counter = Counter("esper_test", description="d")
    def count(self):
        self.counter.inc()

def listeners():
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = []
    for process in processes:
        try:
            name = " ".join(process.cmdline())
            found += [(name, kind, *connection.laddr) for kind in ("tcp", "udp")
                      for connection in process.net_connections(kind) if connection.status in ("LISTEN", "NONE")]
        except psutil.Error:
            pass
    return found

with connected(1):
    actor = Counting.remote()
    ray.get(actor.count.remote())
    export = ray.nodes()[0]["MetricsExportPort"]
    until = time.monotonic() + 60
    while export not in [port for *_, port in listeners()] and time.monotonic() < until:
        time.sleep(0.5)
    time.sleep(2)
    print(json.dumps({"listeners": listeners(), "export": export, "address": ray.util.get_node_ip_address()}))
"""


@pytest.fixture
def folder():
    """A short folder for Ray, removed afterwards."""
    path = tempfile.mkdtemp(dir="/tmp")
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


def environment(**changes):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_") and key != "TMPDIR"}
    return clean | {key: str(value) for key, value in changes.items()}


def esper(*words):
    return [sys.executable, "-m", "esper_ray.cli.main", *map(str, words)]


@pytest.mark.nightly
def test_every_socket_of_a_local_cluster_listens_on_the_loopback_interface(folder):
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS],
        env=environment(RAY_TMPDIR=folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["address"] == "127.0.0.1"
    ports = [port for *_, port in result["listeners"]]
    assert result["export"] in ports  # Ray's metrics
    assert len(ports) >= 6  # control store, raylet, object manager, agents, workers
    open_ones = [entry for entry in result["listeners"] if entry[2] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]
    assert open_ones == []
    assert stat.S_IMODE((folder / "esper").stat().st_mode) == 0o700
    assert list((folder / "esper" / "r").glob("session_*/logs"))


@pytest.mark.nightly  # the choice of the folder has tests without Ray
@pytest.mark.timeout(300)
def test_a_long_tmpdir_trains_in_a_short_folder(folder, tmp_path):
    long = folder / "slurm_jobdir" / "1355700" / "people" / "name" / "tmp.t0016"
    long.mkdir(parents=True)
    command = esper("train", "ppo", *SMALL, "--rounds", 1, "--telemetry-dir", tmp_path / "runs")
    done = subprocess.run(
        command, env=environment(TMPDIR=long), capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("/tmp/" + "x" * 60, "RAY_TMPDIR=/tmp/x{60}: it has 65 bytes, but Ray's sockets leave room for"),
        ("/proc/nowhere", "RAY_TMPDIR=/proc/nowhere: it cannot be written: "),
    ],
)
def test_a_ray_tmpdir_that_cannot_be_used_is_one_line_and_nothing_is_written(place, message, tmp_path):
    command = esper("train", "ppo", *SMALL, "--rounds", 1, "--telemetry-dir", tmp_path / "runs")
    done = subprocess.run(command, env=environment(RAY_TMPDIR=place), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.match(f"esper: error: {message}", line)
    assert not (tmp_path / "runs").exists()
    assert not Path(place).exists()


def ray_processes(folder):
    """Processes of all users that work in ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(f"{folder}/esper" in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("number", "delay_s"),
    [
        pytest.param(signal.SIGINT, 0.0, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, 0.7, marks=pytest.mark.nightly),
        (signal.SIGINT, 1.5),
    ],
)
def test_a_signal_while_ray_starts_ends_the_command_at_once(folder, tmp_path, delay_s, number):
    command = esper("train", "ppo", *SMALL, "--rounds", 1, "--telemetry-dir", tmp_path / "runs")
    with subprocess.Popen(
        command, env=environment(RAY_TMPDIR=folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        while not ray_processes(folder) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(delay_s)
        process.send_signal(number)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        duration = time.monotonic() - began
    assert process.returncode == 128 + number, out + err
    assert "Traceback" not in out + err
    assert duration < 2.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert not list(tmp_path.glob("runs/*"))
    assert ray_processes(folder) == []
