"""``--metrics-port``: a run that Prometheus scrapes without Ray."""

from contextlib import closing
from socket import socket
from urllib.request import urlopen

import pytest
from cli_builders import SMALL, call

from esper_actors.training.listeners import MetricsObserver
from esper_ray.nissa.metrics.exporter import PrometheusExporter

pytestmark = pytest.mark.integration


def test_metrics_are_served_during_the_run(tmp_path, monkeypatch):
    """Read over HTTP between two rounds; the port closes at the end. The rounds equal those without metrics."""
    ports, pages, original = [], [], MetricsObserver.round_finished

    def read_page(self, row, timing):
        original(self, row, timing)
        if not ports:  # the run without metrics
            return
        pages.append(urlopen(f"http://127.0.0.1:{ports[0]}/metrics", timeout=10).read().decode())

    def record_port(self, *arguments, **options):
        constructor(self, *arguments, **options)
        ports[:] = [self.port]

    constructor = PrometheusExporter.__init__
    monkeypatch.setattr(PrometheusExporter, "__init__", record_port)
    monkeypatch.setattr(MetricsObserver, "round_finished", read_page)
    without_metrics = call("train", "ppo", "--serial", *SMALL, "--rounds", 2, "--telemetry-dir", tmp_path / "quiet")
    with_metrics = call(
        *("train", "ppo", "--serial", *SMALL, "--rounds", 2, "--telemetry-dir", tmp_path / "seen", "--run-id", "seen"),
        *("--metrics-port", 0),
    )
    assert (without_metrics.code, with_metrics.code) == (0, 0)
    assert f"metrics http://127.0.0.1:{ports[0]}/metrics" in with_metrics.out
    assert 'ray_esper_rounds_total{group="",run="seen"} 2.0' in pages[1]
    assert 'ray_esper_run_state{group="",run="seen",state="training"} 1.0' in pages[1]
    assert 'ray_esper_env_accuracy_ratio{env="1",group="",run="seen"}' in pages[0]
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{ports[0]}/metrics", timeout=2)
    rounds_without, rounds_with = (
        next((tmp_path / name).glob("*/rounds.csv")).read_bytes() for name in ("quiet", "seen")
    )
    assert rounds_without == rounds_with


def test_an_occupied_port_for_metrics_is_refused(tmp_path):
    with closing(socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        answer = call("train", "ppo", "--serial", *SMALL, "--telemetry-dir", tmp_path, "--metrics-port", port)
    assert answer.code == 2
    assert f"metrics cannot be served on 127.0.0.1:{port}" in answer.err


def test_metrics_of_a_run_without_telemetry_are_refused(tmp_path):
    answer = call(
        "train", "ppo", "--serial", *SMALL, "--telemetry-dir", tmp_path, "--metrics-port", 0, "--telemetry", "off"
    )
    assert answer.code == 2
    assert "--metrics-port 0: with telemetry off there are no metrics" in answer.err


def test_an_unknown_level_is_refused_with_the_valid_ones(tmp_path):
    answer = call("train", "ppo", "--serial", *SMALL, "--telemetry-dir", tmp_path, "--telemetry", "loud")
    assert answer.code == 2
    assert "telemetry.level" in answer.err
    assert "known: off, normal, debug" in answer.err
