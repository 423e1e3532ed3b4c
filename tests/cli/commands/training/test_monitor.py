"""``esper monitor``: a run with a real Prometheus beside it."""

import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from socket import socket
from urllib.parse import parse_qs, urlparse

import psutil
import pytest
from cli_builders import SMALL, call
from prometheus_builders import needs_prometheus

from esper_ray.nissa.catalogue.panels import ROWS
from esper_ray.nissa.runs.run_directory import RunDirectory

TRAIN = ["train", "ppo"]


def monitor(*arguments, **options):
    """``esper monitor <arguments>`` in its own process."""
    command = [sys.executable, "-m", "esper_ray.cli.main", "monitor", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def training(folder, rounds):
    return ["--", "--serial", *SMALL, "--rounds", str(rounds), "--telemetry-dir", str(folder), "--run-id", "r"]


@needs_prometheus
@pytest.mark.slow
def test_a_run_is_scraped_with_links_printed_and_all_processes_end(tmp_path):
    with monitor("--no-keep", *training(tmp_path, 3), env=os.environ | {"COLUMNS": "200"}) as process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    links = [urlparse(line.strip()) for line in out.splitlines() if "/graph?" in line]
    assert len(links) == len(ROWS)
    (accuracy,) = (q for q in (parse_qs(link.query) for link in links) if "round_accuracy_control" in str(q))
    assert accuracy["g0.expr"] == ["max by (group) (ray_esper_round_accuracy_ratio)"]
    for row in ROWS:
        assert f"Healthy: {row.healthy}" in out
    run = RunDirectory.open(tmp_path / "r")
    last_round = run.rounds()[-1]
    assert re.search(r"rounds +│ 3 ", out), out
    assert re.search(rf"growth +│ {float(last_round['growth_ratio']):.2f}x", out), out
    port = links[0].port
    with closing(socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # the port is closed


@pytest.mark.nightly
@needs_prometheus
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.nightly)]
)
def test_a_signal_saves_the_run_and_leaves_no_process(number, code, tmp_path):
    with monitor("--keep", *training(tmp_path, 500), start_new_session=True) as process:
        for line in process.stdout:
            if line.startswith("round 2/"):
                break
        children = psutil.Process(process.pid).children(recursive=True)
        assert {"prometheus"} < {child.name() for child in children}
        process.send_signal(number)
        remaining_output = process.stdout.read()
        process.wait(100)
    assert process.returncode == code, remaining_output
    assert "resume with: esper train ppo --resume" in remaining_output
    assert "last values in Prometheus" in remaining_output
    _, running = psutil.wait_procs(children, timeout=20)
    assert not running
    assert RunDirectory.open(tmp_path / "r").read_manifest()["status"] == "interrupted"


@needs_prometheus
@pytest.mark.slow
@pytest.mark.nightly
def test_a_killed_prometheus_is_reported_and_the_run_continues(tmp_path):
    with monitor("--no-keep", *training(tmp_path, 8)) as process:
        out = ""
        for line in process.stdout:
            out += line
            if line.startswith("round 1/"):
                break
        (server,) = (p for p in psutil.Process(process.pid).children() if p.name() == "prometheus")
        server.kill()
        out += process.stdout.read()
        process.wait(100)
    assert process.returncode == 0, out
    assert "Prometheus has ended, the run continues" in out
    assert RunDirectory.open(tmp_path / "r").read_manifest()["status"] == "finished"


@pytest.mark.parametrize(
    "options", [["--preset", "nowhere"], pytest.param(["--device", "cuda:99"], marks=pytest.mark.nightly)]
)
@needs_prometheus
def test_a_refused_run_gives_its_exit_code_and_its_message_alone(options, tmp_path):
    with monitor("--no-keep", "--", "--serial", *options, cwd=tmp_path) as process:
        out, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert f"esper: error: {out.partition('esper: error: ')[2]}" == out
    assert options[1] in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prometheus", "/nowhere/prometheus"], "there is no program '/nowhere/prometheus': Debian"),
        (["--", "--metrics-port", "3"], "--metrics-port is chosen by esper monitor"),
        (["--", "--preset", "digits", "--metrics-port=3"], "--metrics-port is chosen by esper monitor"),
    ],
)
def test_options_that_cannot_be_used_are_refused(arguments, message):
    answer = call("monitor", *arguments)
    assert answer.code == 2
    assert message in answer.err


@needs_prometheus
def test_an_occupied_port_is_refused():
    with closing(socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        answer = call("monitor", "--port", listener.getsockname()[1])
    assert answer.code == 2
    assert "is not available: Address already in use" in answer.err
