"""A server of Overwatch over recorded runs, called without a socket."""

import json
import time
from contextlib import contextmanager

from sanctum_builders import NAME, beat, decide, play, recorded_run, set_times
from starlette.testclient import TestClient
from state_builders import step

from esper_ray.karn.overwatch.access import Access
from esper_ray.karn.overwatch.api.services import Services
from esper_ray.karn.overwatch.routes import application
from esper_ray.karn.overwatch.runs.hub import Hub
from esper_ray.karn.overwatch.runs.index import PlaceIndex
from esper_ray.karn.overwatch.runs.summaries import Summaries
from esper_ray.karn.questions.tables import QuestionPool
from esper_ray.nissa.runs.live_steps import LIVE, LIVE_FIELDS

ADDRESS = "http://127.0.0.1:8080"


def live_run(folder, name=NAME):
    """A run in its fourth round, with samples, steps in play and a pulse."""
    run = recorded_run(folder, name=name)
    decide(run)
    play(run)
    beat(run)
    set_times(run)
    return run


@contextmanager
def served(*folders, root="", address=ADDRESS, token=None, host="127.0.0.1", allowed=(), sql=None, copies=None):
    """A client of a server that watches these folders and storages."""
    hub = Hub(copies=copies)
    services = Services(
        index=PlaceIndex(folders, root, storages=hub.copies.mirrors),
        hub=hub,
        summaries=Summaries(),
        access=Access(host=host, port=8080, token=token, allowed_hosts=tuple(allowed)),
        root=root,
        questions=QuestionPool(),
        sql=sql,
    )
    with TestClient(application(services), base_url=address, follow_redirects=False) as client:
        client.services = services
        yield client


def state_of(client, name=NAME, root=""):
    """Sections of a run after its log has been read."""
    return eventually(lambda: complete_state(client, name, root))["sections"]


def complete_state(client, name=NAME, root=""):
    """State of a run; ``None`` while its log is being read."""
    tree = client.get(f"{root}/api/v1/runs/{name}").json()
    return None if tree["sections"]["facts"]["reading"] else tree


def eventually(look, seconds=10.0):
    """The first result of ``look`` that is true."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.01)


def add_live_step(run, number=2, **more):
    """Append a step of an episode in play, of environment 1."""
    record = step(env=1, number=number, episode=25, round=3, **{"accuracy": 33.5} | more)
    with (run.path / LIVE).open("a") as file:
        file.write(json.dumps({name: record[name] for name in LIVE_FIELDS}) + "\n")
