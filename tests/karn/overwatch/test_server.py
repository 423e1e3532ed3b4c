"""The server of the command: its refusals, its lines, its streams over a connection, its end."""

import json
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from overwatch_builders import add_live_step, eventually, live_run
from sanctum_builders import NAME

from esper_ray.karn.overwatch.access import TOKEN_VARIABLE
from esper_ray.karn.overwatch.server import OverwatchServer, ServerOptions, bound_socket, checked_root, watched
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.runs.copies.remote_copy import RemoteCopy
from esper_ray.nissa.runs.copies.storage import Storage

TOKEN = "a-token-of-the-tests-1234"


@pytest.fixture
def run(tmp_path):
    return live_run(tmp_path / "runs")


@pytest.fixture
def made(run, monkeypatch):
    """Makes servers that are closed at the end."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    servers = []

    def make(**options):
        options = {"places": (str(run.path.parent),), "port": 0} | options
        servers.append(OverwatchServer(ServerOptions(**options), []))
        return servers[-1]

    yield make
    for server in servers:
        server.socket.close()


def test_folders_by_default_need_not_exist(tmp_path):
    assert watched([], [tmp_path / "runs"]) == ([tmp_path / "runs"], [])


def test_folders_and_storages_are_watched_together(made, run, tmp_path):
    RemoteCopy(Storage(tmp_path / "store"), run).push()
    server = made(places=(str(run.path.parent), f"file://{tmp_path}/store"))
    assert server.lines()[1] == f"watching {tmp_path}/runs, file://{tmp_path}/store; Ctrl-C ends it"
    places = server.services.index.places()
    assert [place.shown for place in places] == [f"{tmp_path}/runs/{NAME}", f"file://{tmp_path}/store/{NAME}"]


def test_on_this_machine_no_token_is_needed_and_sql_is_on(made):
    server = made()
    assert (server.access.token, server.is_token_drawn) == (None, False)
    assert server.services.sql is not None
    assert server.lines()[0] == f"Overwatch: http://127.0.0.1:{server.access.port}/"
    assert len(server.lines()) == 2


def test_on_an_open_address_a_token_is_drawn_and_printed_once_and_sql_is_off(made):
    server = made(host="0.0.0.0")
    assert server.is_token_drawn
    assert [server.access.token in line for line in server.lines()] == [False, False, True]
    assert server.services.sql is None
    assert made(host="0.0.0.0", sql=True).services.sql is not None


def test_a_token_of_the_user_is_not_printed(made, tmp_path, monkeypatch):
    (tmp_path / "token").write_text(TOKEN)
    of_file = made(host="0.0.0.0", token_file=tmp_path / "token")
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    for server in (of_file, made(host="0.0.0.0"), made()):
        assert server.access.token == TOKEN
        assert not any(TOKEN in line for line in server.lines())


def test_over_ssh_the_way_from_another_machine_is_told(made, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "1.2.3.4 5 6.7.8.9 22")
    server = made()
    port = server.access.port
    assert server.lines()[2] == f"from another machine: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}"


def test_a_port_that_is_taken_is_refused():
    with bound_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port} is taken on 127.0.0.1; --port 0 chooses a free one"):
            bound_socket("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "8.8.8.8"])
def test_an_address_that_is_not_of_this_machine_is_refused(host):
    with pytest.raises(UsageError, match="--host"):
        bound_socket(host, 0)


@pytest.mark.parametrize(("root", "path"), [("", ""), ("/", ""), ("x", "/x"), ("/x/y/", "/x/y")])
def test_a_prefix(root, path):
    assert checked_root(root) == path


@pytest.mark.parametrize("root", ["/x/../y", "/a b", "/<script>", "//x//y", "/\u00e9", "/x?y"])
def test_another_prefix_is_refused(root):
    with pytest.raises(UsageError, match="--root-path"):
        checked_root(root)


def environment():
    """The environment of a child that imports this tree."""
    return {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)
    }


@pytest.fixture
def process(run):
    """``esper overwatch`` in a process of its own, and its address."""
    command = [sys.executable, "-m", "esper_ray", "overwatch", "runs", "--port", "0"]
    child = subprocess.Popen(
        command,
        cwd=run.path.parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    child.lines = [child.stdout.readline() for _ in range(2)]
    child.address = child.lines[0].split()[-1]
    yield child
    child.kill()
    child.communicate()


@pytest.mark.integration
def test_a_stream_over_a_connection_and_the_end_by_a_signal(process, run):
    with httpx.Client(base_url=process.address, timeout=20) as client:
        eventually(lambda: client.get("/healthz").status_code == 200)
        with client.stream("GET", f"api/v1/runs/{NAME}/stream") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-store"
            lines = response.iter_lines()
            events = (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
            first = next(event for event in events if event["sections"].get("facts", {}).get("reading") is False)
            add_live_step(run)
            changed = next(event for event in events if "environments" in event["sections"])
            assert list(changed["sections"]["environments"]) == ["1"]
            assert changed["version"] > first["version"]
            process.send_signal(signal.SIGINT)
            assert len(list(events)) < 10  # the stream ends
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert process.lines[1] == "watching runs; Ctrl-C ends it\n"


@pytest.mark.integration
def test_a_client_goes_on_from_its_version_after_the_server_has_been_started_again(process, run):
    with httpx.Client(base_url=process.address, timeout=20) as client:
        tree = eventually(lambda: _read(client))
        with client.stream(
            "GET", f"api/v1/runs/{NAME}/stream", headers={"last-event-id": str(tree["version"])}
        ) as answer:
            data = next(line for line in answer.iter_lines() if line.startswith("data: "))
    assert set(json.loads(data[6:])["sections"]) <= {"age", "answers"}


def _read(client):
    tree = client.get(f"api/v1/runs/{NAME}").json()
    return None if tree["sections"]["facts"]["reading"] else tree
