"""Ray's control processes: a verdict in bounded time when one of them no longer answers. No Ray is started."""

import socket
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import RaySystemError

from esper_actors.cluster import control_processes
from esper_actors.cluster.control_processes import ClusterLostError, ControlProcesses
from esper_ray.leyline.errors import UsageError

pytestmark = pytest.mark.integration

PATIENCE_S = 0.2


@pytest.fixture
def servers(monkeypatch):
    """Listening sockets in place of GCS and raylet."""
    pair = {name: socket.create_server(("127.0.0.1", 0)) for name in ("GCS", "raylet")}
    ports = {name: server.getsockname()[1] for name, server in pair.items()}
    context = SimpleNamespace(gcs_address=f"127.0.0.1:{ports['GCS']}", get_node_id=lambda: "here")
    nodes = [
        {"NodeID": "there", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": 1},
        {"NodeID": "here", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": ports["raylet"]},
    ]
    monkeypatch.setattr(control_processes.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(control_processes.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(control_processes, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(control_processes, "LOCAL_PATIENCE", PATIENCE_S)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield pair
    for server in pair.values():
        server.close()


@pytest.fixture
def control(servers):
    control = ControlProcesses()
    yield control
    control.stop()


@pytest.mark.parametrize("leaves", [True, False])
def test_only_a_program_that_does_not_leave_a_lost_cluster_is_stuck(leaves, servers, monkeypatch):
    monkeypatch.setattr(control_processes, "LEAVE_SECONDS", 0.3)
    stuck = []
    control = ControlProcesses(stuck.append)
    servers["GCS"].close()
    wait_until_lost(control)
    if not leaves:
        time.sleep(1.0)
    control.stop()
    assert len(stuck) == (not leaves)


def wait_until_lost(control):
    deadline = time.monotonic() + 10
    while not control.lost and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["GCS", "raylet"])
def test_a_process_that_no_longer_answers_ends_the_run(name, servers, control):
    control.check()
    began = time.monotonic()
    servers[name].close()
    wait_until_lost(control)
    assert PATIENCE_S < time.monotonic() - began < 5
    with pytest.raises(
        ClusterLostError, match=f"a control process of Ray has died: the {name} at 127.0.0.1:"
    ) as caught:
        control.check()
    assert caught.value.exit_code == 1


def test_processes_that_answer_are_left_alone(control):
    time.sleep(2 * PATIENCE_S)
    assert not control.lost
    assert control.verdict(RaySystemError("broken pipe")) is None


def test_an_error_that_comes_before_the_verdict_is_replaced_by_it(servers, control):
    servers["raylet"].close()
    verdict = control.verdict(RaySystemError("broken pipe"))
    assert isinstance(verdict, ClusterLostError)


@pytest.mark.parametrize("error", [None, SystemExit(143), KeyboardInterrupt()])
def test_the_end_of_a_stopped_run_has_no_verdict(error, servers, control):
    """A signal to the whole process group ends Ray too; the run was stopped and is not a failure."""
    servers["GCS"].close()
    wait_until_lost(control)
    assert control.verdict(error) is None


def test_a_user_error_waits_for_no_verdict(control, monkeypatch):
    monkeypatch.setattr(control._thread, "join", lambda *_: pytest.fail("it waits"))
    assert control.verdict(UsageError("no such device")) is None
    monkeypatch.undo()


def test_a_joined_cluster_has_the_time_to_restart_its_gcs(servers, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    control = ControlProcesses()
    servers["GCS"].close()
    time.sleep(2 * PATIENCE_S)
    assert not control.lost
    control.stop()
