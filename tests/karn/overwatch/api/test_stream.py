"""The stream sends what is new, the newest state, and keeps nothing for a client."""

import asyncio
import json
import threading

import pytest
from overwatch_builders import add_live_step, eventually, live_run
from sanctum_builders import NAME, beat
from state_builders import step

from esper_ray.karn.overwatch.api import stream
from esper_ray.karn.overwatch.api.stream import RunEventResponse, known_version, run_events
from esper_ray.karn.overwatch.runs.followed import FollowedRun, RunShot, Versioned, json_text
from esper_ray.karn.overwatch.runs.hub import FOLLOW_SECONDS, OVER_SECONDS, WATCHED_SECONDS, Hub
from esper_ray.karn.overwatch.runs.index import PlaceIndex


@pytest.fixture
def run(tmp_path):
    return live_run(tmp_path)


@pytest.fixture
def place(run):
    return PlaceIndex([run.path.parent]).find("run", NAME)


def followed(place, moments=None):
    """The run after its log has been read; its clock gives ``moments``."""
    clock = [0.0] if moments is None else moments
    found = FollowedRun(place, clock=lambda: clock[0], now=lambda: 1000.0)
    found.poll()
    return found


def sections_since(found, version):
    return json.loads(found.shot.text(version))["sections"]


def test_a_step_of_one_environment_changes_that_environment_alone(run, place):
    found = followed(place)
    version = found.shot.version
    assert not found.poll()
    assert found.shot.version == version
    add_live_step(run)
    assert found.poll()
    changed = sections_since(found, version)
    assert set(changed) == {"environments", "answers"}  # the answer "growing" counts the slots
    assert list(changed["environments"]) == ["1"]
    assert len(found.shot.text(version)) < 0.1 * len(found.shot.text())


def test_versions_grow_over_a_restart_of_the_server(place):
    first = FollowedRun(place, now=lambda: 1000.0)
    second = FollowedRun(place, now=lambda: 1001.0)
    assert 1_000_000 <= first.shot.version < second.shot.version


def test_ages_change_once_a_second_at_most(run, place):
    clock = [0.0]
    found = followed(place, clock)
    sent = found.shot.version
    for clock[0] in (0.3, 0.6, 0.9):
        assert not found.poll()
    clock[0] = 1.2
    assert found.poll()
    assert list(sections_since(found, sent)) == ["age"]


def test_a_driver_that_is_gone_is_said_to_be_gone(run, place):
    clock = [0.0]
    found = followed(place, clock)
    clock[0] = 6.0
    found.poll()
    alive = json.loads(found.shot.text())["sections"]["answers"]["alive"]
    assert alive["level"] == "wrong"
    assert alive["text"] == "GONE, no beat for 6 s, process 4711 on box, last: playing round 4/11"


def test_a_resumed_run_is_made_anew_and_says_so(run, place):
    position = run.position()
    run.log([step(env=0, number=1, episode=99, round=4)])
    found = followed(place)
    version = found.shot.version
    run.rewind(position)
    run.log([step(env=0, number=1, episode=99, round=4, accuracy=1.0), step(env=0, number=2, episode=99, round=4)])
    found.poll()
    notes = sections_since(found, version)["integrity"]["notes"]
    assert len(notes) == 1
    assert notes[0].startswith("resumed")


def test_an_environment_that_is_gone_is_null_for_who_knew_it_and_absent_for_others():
    parts = {0: Versioned(5, "{}"), 1: Versioned(7, "null")}
    shot = RunShot(7, {}, parts)
    assert json.loads(shot.text(5))["sections"]["environments"] == {"1": None}
    assert json.loads(shot.text())["sections"]["environments"] == {"0": {}}


def test_numbers_that_are_not_finite_are_null_in_json():
    assert json_text({"a": [float("nan"), 1.0], "b": float("inf")}) == '{"a":[null,1.0],"b":null}'


@pytest.mark.parametrize(
    ("header", "parameter", "version"),
    [
        ("7", "5", 7),
        (None, "5", 5),
        ("x", "5", 5),
        (None, "-5", 0),
        (None, None, 0),
        ("\u0663", None, 0),
        ("9" * 30, None, 0),
    ],
)
def test_the_version_of_a_client(header, parameter, version):
    assert known_version(header, parameter) == version


async def collected(hub, place, since, count, between=None):
    """The first events of a stream; ``between`` is called before each."""
    events = []
    async for event in run_events(hub, place, since):
        events.append(event)
        if len(events) == count:
            break
        if between is not None:
            between(len(events))
    return events


@pytest.fixture
def hub():
    hub = Hub()
    hub.start()
    yield hub
    hub.close()


def test_a_stream_begins_with_everything_and_goes_on_with_changes(run, place, hub):
    async def play():
        events = []
        async for event in run_events(hub, place, 0):
            events.append(json.loads(event["data"]))
            if not events[-1]["sections"].get("facts", {"reading": False})["reading"]:
                break
        version = events[-1]["version"]
        add_live_step(run)
        rest = await collected(hub, place, version, 2)
        return events, rest

    events, rest = asyncio.run(asyncio.wait_for(play(), 20))
    assert set(events[0]["sections"]) >= {"facts", "answers", "environments"}
    seen = {name for event in rest for name in json.loads(event["data"])["sections"]}
    assert seen <= {"environments", "age", "answers"}
    assert rest[0]["retry"] == stream.RETRY_MILLISECONDS
    assert [int(event["id"]) for event in rest] == sorted(int(event["id"]) for event in rest)


def test_a_slow_client_gets_the_newest_state_and_no_queue(run, place, hub, monkeypatch):
    monkeypatch.setattr(stream, "FOLLOW_SECONDS", 0.0)

    async def play():
        found = hub.follow(place)
        while not found.shot.complete:
            await asyncio.sleep(0.01)
        events = run_events(hub, place, found.shot.version)
        await anext(events)
        for number in range(3, 8):
            add_live_step(run, number)
        while json.loads(found.shot.environments[1].text)["step"] != 7:
            await asyncio.sleep(0.01)
        event = await anext(events)
        await events.aclose()
        return json.loads(event["data"])

    tree = asyncio.run(asyncio.wait_for(play(), 20))
    assert tree["sections"]["environments"]["1"]["step"] == 7


def test_a_stream_ends_with_the_server(run, place, hub):
    async def play():
        events = run_events(hub, place, 0)
        await anext(events)
        threading.Timer(0.05, hub.close).start()
        return [event async for event in events]

    assert len(asyncio.run(asyncio.wait_for(play(), 20))) < 10


def test_a_send_that_takes_too_long_ends_the_client(place):
    ended = []

    async def events():
        try:
            while True:
                yield {"data": "x"}
        finally:
            ended.append(True)

    async def play():
        sent = []

        async def send(message):
            sent.append(message)
            if len(sent) > 2:
                await asyncio.sleep(60)

        async def receive():
            await asyncio.sleep(60)

        response = RunEventResponse(events(), ping=15, send_timeout=0.05)
        await response({"type": "http", "method": "GET", "headers": []}, receive, send)
        return sent

    sent = asyncio.run(asyncio.wait_for(play(), 20))
    assert [message["type"] for message in sent][:1] == ["http.response.start"]
    assert ended == [True]
    assert stream.SEND_SECONDS == 5.0


class CountedRun:
    """A run that counts how often it is looked at."""

    def __init__(self, is_over=False):
        self.polls, self.is_over, self.shot = 0, is_over, RunShot(1, complete=True)

    def poll(self):
        self.polls += 1
        return False

    def complete_history(self):
        return False


def entered(hub, run, asked=0.0, streams=0):
    from esper_ray.karn.overwatch.runs.hub import _Entry

    hub._entries[f"run{len(hub._entries)}"] = _Entry(run, asked, streams=streams)
    return run


def test_a_run_is_looked_at_four_times_a_second_while_watched_and_not_otherwise():
    clock = [0.0]
    hub = Hub(clock=lambda: clock[0])
    streamed, over, asked, idle = CountedRun(), CountedRun(is_over=True), CountedRun(), CountedRun()
    entered(hub, streamed, asked=-1000.0, streams=1)
    entered(hub, over, asked=-1000.0, streams=1)
    entered(hub, asked, asked=0.0)
    entered(hub, idle, asked=-1000.0)
    for tick in range(4 * 60):
        clock[0] = tick * FOLLOW_SECONDS
        hub.poll()
    assert streamed.polls == 240
    assert over.polls == 60 / OVER_SECONDS
    assert asked.polls == WATCHED_SECONDS / FOLLOW_SECONDS
    assert idle.polls == 0


def test_a_log_that_is_read_for_the_first_time_does_not_hold_up_the_others():
    class SlowRun(CountedRun):
        def __init__(self):
            super().__init__()
            self.shot, self.begun, self.released = RunShot(1), threading.Event(), threading.Event()

        def poll(self):
            self.begun.set()
            assert self.released.wait(10)
            self.shot = RunShot(2, complete=True)
            return super().poll()

    clock = [0.0]
    hub = Hub(clock=lambda: clock[0])
    slow, other = SlowRun(), CountedRun()
    entered(hub, slow)
    entered(hub, other)
    for clock[0] in (0.0, 1.0, 2.0):
        hub.poll()
    assert slow.begun.wait(10)
    assert (slow.polls, other.polls) == (0, 3)
    slow.released.set()
    eventually(lambda: slow.polls == 1)
    clock[0] = 3.0
    eventually(lambda: hub.poll() and slow.polls == 2)


def test_all_clients_of_a_run_share_one_follower(run, place, hub):
    assert hub.follow(place) is hub.follow(place)
    assert len({id(hub.follow(place)) for _ in range(20)}) == 1


def test_a_follower_that_fails_says_so_and_the_others_go_on(run, place, hub, monkeypatch, caplog):
    monkeypatch.setattr(FollowedRun, "poll", lambda self: 1 / 0)
    found = hub.follow(place)
    for _ in range(1000):
        if found.shot.complete:
            break
        threading.Event().wait(0.01)
    facts = json.loads(found.shot.text())["sections"]["facts"]
    assert facts["failure"] == "ZeroDivisionError: division by zero"
    assert "cannot be followed" in caplog.text


def test_many_unwatched_runs_are_dropped(run, place, monkeypatch):
    monkeypatch.setattr("esper_ray.karn.overwatch.runs.hub.KEPT_RUNS", 2)
    clock = [0.0]
    hub = Hub(clock=lambda: clock[0])
    for clock[0] in (1.0, 2.0, 3.0):
        entered(hub, CountedRun(), asked=clock[0])
    hub.follow(place)
    assert len(hub._entries) == 2


def test_a_beat_is_seen_within_a_second(run, place, hub):
    async def play():
        found = hub.follow(place)
        while not found.shot.complete:
            await asyncio.sleep(0.01)
        beat(run, beat=2, phase="learning")
        text = ""
        async for event in run_events(hub, place, found.shot.version):
            text = json.loads(event["data"])["sections"].get("answers", {}).get("alive", {}).get("text", text)
            if "learning" in text:
                break
        return text

    assert asyncio.run(asyncio.wait_for(play(), 20)) == "learning round 4/11"
