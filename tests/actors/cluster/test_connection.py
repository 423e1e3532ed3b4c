"""Connection to a cluster: unreachable or refusing clusters are reported early."""

import re
import socket
import time
from contextlib import closing

import pytest
import ray
from ray.exceptions import AuthenticationError

from esper_actors.cluster import connection
from esper_actors.cluster.connection import ClusterError, start_ray


@pytest.fixture
def closed_port():
    """A port without a listener."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_without_a_cluster_is_refused_at_once(monkeypatch, closed_port, prefix):
    monkeypatch.setenv("RAY_ADDRESS", f"{prefix}127.0.0.1:{closed_port}")
    began = time.monotonic()
    with pytest.raises(ClusterError, match=rf"no Ray cluster at RAY_ADDRESS={prefix}127.0.0.1:{closed_port}"):
        start_ray(1)
    assert time.monotonic() - began < connection.CONNECT_SECONDS + 2


@pytest.mark.parametrize("address", ["ray://::", "ray://", "ray://host", ":6379", "host", "", "a:b", "[]:1", "host:"])
def test_a_text_that_is_no_address_is_refused_at_once(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", None)
    with pytest.raises(ClusterError, match=rf"RAY_ADDRESS='?{re.escape(address)}'? is not an address of a cluster"):
        start_ray(1)


def test_the_recorded_address_of_a_stopped_local_cluster_is_refused(monkeypatch, closed_port, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port}")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ClusterError, match="no Ray cluster at RAY_ADDRESS=auto"):
        start_ray(1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AuthenticationError("Missing authentication token"), "refuses the token: Missing.*set RAY_AUTH_MODE=token"),
        (ConnectionError("Could not find any running Ray instance."), "no Ray cluster at RAY_ADDRESS=auto: Could not"),
        (RuntimeError("Version mismatch: started with Ray: 2.50.0, we have 2.60.0"), "of another version.*2.50.0"),
    ],
)
def test_an_error_of_ray_is_reported_with_the_address(monkeypatch, tmp_path, error, message):
    def refuse(*_, **__):
        raise error

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=message):
        start_ray(1)


def test_an_unrelated_error_is_raised_unchanged(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise RuntimeError("Maybe you called ray.init twice by accident?")

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(RuntimeError, match="twice by accident"):
        start_ray(1)
