"""Errors of those who want to join a cluster, found out early."""

import socket
import time
from contextlib import closing

import pytest
import ray
from ray.exceptions import AuthenticationError

from esper_actors.cluster import connection as joining
from esper_actors.cluster.connection import ClusterError, start_ray


@pytest.fixture
def deaf_port():
    """A port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_nobody_at_the_address_is_found_out_at_once(monkeypatch, deaf_port, prefix):
    monkeypatch.setenv("RAY_ADDRESS", f"{prefix}127.0.0.1:{deaf_port}")
    began = time.monotonic()
    with pytest.raises(ClusterError, match=rf"no Ray cluster at RAY_ADDRESS={prefix}127.0.0.1:{deaf_port}"):
        start_ray(1)
    assert time.monotonic() - began < joining.CONNECT_SECONDS + 2


def test_a_cluster_of_this_machine_that_is_gone_is_found_out_too(monkeypatch, deaf_port, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{deaf_port}")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ClusterError, match="no Ray cluster at RAY_ADDRESS=auto"):
        start_ray(1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AuthenticationError("Missing authentication token"), "refuses our token: Missing.*set RAY_AUTH_MODE=token"),
        (ConnectionError("Could not find any running Ray instance."), "no Ray cluster at RAY_ADDRESS=auto: Could not"),
        (RuntimeError("Version mismatch: started with Ray: 2.50.0, we have 2.60.0"), "of another version.*2.50.0"),
    ],
)
def test_what_ray_says_is_said_with_the_address(monkeypatch, tmp_path, error, message):
    def refuse(*_, **__):
        raise error

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=message):
        start_ray(1)


def test_other_errors_are_nobody_elses(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise RuntimeError("Maybe you called ray.init twice by accident?")

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(RuntimeError, match="twice by accident"):
        start_ray(1)
