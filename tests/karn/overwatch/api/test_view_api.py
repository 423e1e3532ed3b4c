"""A terminal view elsewhere: the state once, then items; equal to that of a viewer beside the run."""

import socket
import threading
import time

import pytest
import uvicorn
from overwatch_builders import add_live_step, eventually, live_run, served
from sanctum_builders import NAME, PULSE, beat, round_records, watched

from esper_ray.karn.overwatch.runs.items import NewestItems
from esper_ray.karn.page_client import PageClientError, ServedRun, served_place
from esper_ray.karn.recent import RecentRecords
from esper_ray.karn.sanctum.frame import frame, rows
from esper_ray.karn.sanctum.view import Controls
from esper_ray.karn.sanctum.watch import RunWatch, watch_of
from esper_ray.leyline.errors import Fault
from esper_ray.nissa.state.codec import state_to_json


class DirectClient:
    """The client of a page over the server of a test, without a socket."""

    address = "http://127.0.0.1:8080"

    def __init__(self, client):
        self._client, self.paths = client, []

    def get(self, path):
        self.paths.append(path)
        answer = self._client.get(f"/api/v1{path}")
        if answer.status_code != 200:
            raise PageClientError(answer.json()["error"])
        return answer.json()


def content(state):
    tree = state_to_json(state)["state"]
    return {name: value for name, value in tree.items() if not name.startswith("changed") and name != "count"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return live_run(tmp_path / "runs")


@pytest.fixture
def server(run):
    with served(run.path.parent) as client:
        yield DirectClient(client)


def test_the_state_is_that_of_a_viewer_beside_the_run_and_stays_so(run, server):
    recent = RecentRecords()
    shown = ServedRun(server, NAME, recent)
    assert content(shown.state) == content(watched(run.path).state)
    add_live_step(run)
    run.log(round_records(3))
    beat(run, **PULSE | {"beat": 2, "round": 4})
    with (run.path / "timings.csv").open("a") as file:
        file.write("3,8.5,1.5,6.1,1.0\n")
    expected = content(watched(run.path).state)

    def caught_up():
        shown.refresh()
        return content(shown.state) == expected

    eventually(caught_up)
    assert all("?since=" in path for path in server.paths[1:])
    assert shown.sight.pulse["round"] == 4
    assert recent.snapshot().last("round")["round"] == 3


def test_an_answer_comes_with_the_change_or_after_the_wait(run, server):
    shown = ServedRun(server, NAME, RecentRecords())
    eventually(lambda: shown.refresh() or shown.refresh_s == 0.0)
    for accuracy in (41.0, 42.0, 43.0):
        timer = threading.Timer(0.2, add_live_step, (run,), {"accuracy": accuracy})
        asked = len(server.paths)
        timer.start()
        eventually(lambda: shown.refresh() or shown.state.previews[1].val_accuracy_pp == accuracy)  # noqa: B023
        assert len(server.paths) - asked <= 4  # the age of the beat changes, too
    run.set_status("finished")
    eventually(lambda: shown.refresh() or shown.state.status == "finished")
    began = time.monotonic()
    shown.refresh()
    assert 0.9 < time.monotonic() - began < 5.0
    assert shown.refresh_s == 0.0


def test_its_screens_are_those_beside_the_run(run, server):
    folder, _ = served_place("http://127.0.0.1:8080/runs/x", {})
    folder._client = server
    watch = RunWatch(folder, NAME, lambda: 0.0)
    watch.poll()
    here, there = watched(run.path), watch.poll()
    for screen in (1, 2, 3, 4, 5, 6):
        first, second = (rows(frame(view, Controls(screen=screen), 160, 48)) for view in (here, there))
        assert first[2:] == second[2:]


def test_a_fault_is_fetched_with_the_whole_state(run, server):
    shown = ServedRun(server, NAME, RecentRecords())
    run.add_fault({"kind": "actor_died", "who": "env 1", "detail": "gone", "seconds": None})

    def known():
        shown.refresh()
        return shown.state.faults == (Fault("actor_died", "env 1", "gone"),)

    eventually(known)


def test_events_that_did_not_come_one_by_one_are_fetched_with_the_whole_state(run, server):
    shown = ServedRun(server, NAME, RecentRecords())
    run.log(round_records(3))
    run.compact(always=True)
    expected = content(watched(run.path).state)

    def known():
        shown.refresh()
        return content(shown.state) == expected

    eventually(known)


def test_items_that_are_gone_are_not_left_out_in_silence():
    items = NewestItems(kept=3)
    for number in range(5):
        items.event({"seq": number})
    assert items.newest == 5
    assert items.between(2, 5) == [("event", {"seq": number}) for number in (2, 3, 4)]
    assert items.between(4, 5) == [("event", {"seq": 4})]
    assert items.between(5, 5) == []
    assert items.between(1, 5) is None
    assert items.between(6, 5) is None
    items.clear()
    assert items.between(5, items.newest) is None
    items.event({"seq": 0})
    assert items.between(6, 7) == [("event", {"seq": 0})]


@pytest.mark.nightly
def test_after_a_restart_of_the_server_the_whole_state_is_fetched(run, server):
    shown = ServedRun(server, NAME, RecentRecords())
    run.log(round_records(3))
    with served(run.path.parent) as client:
        shown._client = DirectClient(client)
        expected = content(watched(run.path).state)

        def known():
            shown.refresh()
            return content(shown.state) == expected

        eventually(known)
        assert NewestItems(start=1000).between(999, 1000) is None


def test_the_runs_of_a_server_are_listed(run, server):
    folder, _ = served_place("http://127.0.0.1:8080/runs/x", {})
    folder._client = server
    view = RunWatch(folder, None).poll(runs=True)
    assert [line.name for line in view.runs] == [NAME]
    assert f"1 run in {server.address}" in "\n".join(rows(frame(view, Controls(screen=7), 80, 24)))


def test_an_unknown_run_is_named_with_the_nearest(server):
    with pytest.raises(PageClientError, match="there is no run"):
        ServedRun(server, "digits-s43", RecentRecords())


@pytest.mark.parametrize(
    ("address", "root", "name"),
    [
        ("http://127.0.0.1:8080/runs/a~b", "http://127.0.0.1:8080", "a~b"),
        ("https://box/prefix/runs/a%20b/episodes?x=1", "https://box/prefix", "a b"),
    ],
)
def test_an_address_is_taken_apart(address, root, name):
    folder, found = served_place(address, {})
    assert (folder.shown, found) == (root, name)


@pytest.mark.parametrize("address", ["http://", "http://me@box/runs/r"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(PageClientError, match="cannot be used"):
        served_place(address, {})


@pytest.fixture
def listening(run):
    """Address of a server on a socket, and a function that ends it."""
    with served(run.path.parent, address="http://127.0.0.1") as client, socket.create_server(("127.0.0.1", 0)) as taken:
        server = uvicorn.Server(uvicorn.Config(client.app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()

        def end():
            server.should_exit = True
            thread.join(20)

        yield f"http://127.0.0.1:{taken.getsockname()[1]}", end
        end()


def test_a_lost_server_keeps_what_is_known_and_says_its_age(listening):
    address, end = listening
    clock = [0.0]
    watch = watch_of(f"{address}/runs/{NAME}", clock=lambda: clock[0])
    assert watch.shows_run
    view = watch.poll()
    assert len(view.state.rounds) == 3
    end()
    clock[0] = 3.0
    view = watch.poll()
    assert len(view.state.rounds) == 3
    assert "does not answer" in view.connection
    assert "the next try is in 1 s" in view.connection
    assert "what is shown is 3 s old" in view.connection


def test_a_server_of_another_version_is_named_with_both(listening, monkeypatch):
    monkeypatch.setattr("esper_ray.karn.page_client._PROGRAM", "another")
    address, _ = listening
    with pytest.raises(PageClientError, match="this program of another"):
        watch_of(address)


def test_without_a_server_the_list_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PageClientError, match=f"http://127.0.0.1:{port} does not answer"):
        watch_of(f"http://127.0.0.1:{port}")
