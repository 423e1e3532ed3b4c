"""A client that applies every change has the state of a client that begins now."""

import json
import random

import pytest
from report_builders import run_of
from state_builders import finished_round, moved, outcome, report, step

from esper_ray.karn.overwatch.runs.followed import FollowedRun
from esper_ray.karn.overwatch.runs.index import PlaceIndex
from esper_ray.leyline.errors import Fault
from esper_ray.nissa.runs.live_steps import LIVE, LIVE_FIELDS


class Client:
    """What a page does with the stream."""

    def __init__(self):
        self.version, self.sections = 0, {}

    def take(self, run):
        text = run.shot.text(self.version)
        tree = json.loads(text)
        assert tree["version"] >= self.version
        for name, section in tree["sections"].items():
            if name == "environments" and self.version:
                self.sections[name] = self.sections.get(name, {}) | section
            else:
                self.sections[name] = section
        self.version = tree["version"]
        gone = [env for env, value in self.sections.get("environments", {}).items() if value is None]
        for env in gone:
            del self.sections["environments"][env]


class Driver:
    """A run that plays, logs, compacts, fails and is resumed, in a random order."""

    def __init__(self, run, rng):
        self.run, self.rng, self.episode, self.round, self.position = run, rng, 0, 0, run.position()

    def clock(self):
        return {"env": self.rng.randrange(5), "episode": self.episode, "round": self.round}

    def play(self):
        self.episode += 1
        slots = {"r0c0": report("HOLDING", self.rng.uniform(-3, 3), seed=f"r0c0-{self.episode}")}
        record = step(number=self.rng.randrange(1, 9), accuracy=self.rng.uniform(0, 99), slots=slots, **self.clock())
        with (self.run.path / LIVE).open("a") as file:
            file.write(json.dumps({name: record[name] for name in LIVE_FIELDS}) + "\n")

    def log(self):
        self.episode += 1
        clock = self.clock()
        self.run.log(
            [
                step(number=1, accuracy=self.rng.uniform(0, 99), **clock),
                moved("HOLDING", self.rng.choice(["FOSSILIZED", "PRUNED"]), 1, **clock),
                outcome(self.episode, self.rng.uniform(-1, 1), 40.0, env=clock["env"], round=self.round),
            ]
        )

    def end_round(self):
        self.run.log([finished_round(self.round, self.rng.random())])
        self.round += 1

    def compact(self):
        self.run.compact(always=True)

    def save(self):
        self.position = self.run.position()

    def resume(self):
        self.run.rewind(self.position)
        (self.run.path / LIVE).write_text("")
        self.log()

    def fault(self):
        fault = Fault("environment_actor_died", f"worker {self.rng.randrange(9)}", "killed")
        self.run.add_fault({"round": 0, "kind": fault.kind, "who": fault.who, "detail": fault.detail, "seconds": 1.0})


@pytest.mark.parametrize("seed", range(6))
def test_changes_add_up_to_the_whole_state(tmp_path, seed):
    rng = random.Random(seed)
    run = run_of(tmp_path, [], status="running")
    driver, clock = Driver(run, rng), [0.0]
    place = PlaceIndex([tmp_path]).find("run", run.run_id)
    followed = FollowedRun(place, clock=lambda: clock[0])
    often, seldom = Client(), Client()
    actions = [driver.play, driver.log, driver.end_round, driver.compact, driver.save, driver.resume, driver.fault]
    for _ in range(60):
        rng.choices(actions, weights=[8, 6, 3, 1, 1, 1, 1])[0]()
        clock[0] += rng.choice([0.1, 0.3, 2.0])
        if rng.random() < 0.7:
            followed.poll()
            followed.complete_history()
            often.take(followed)
            if rng.random() < 0.2:
                seldom.take(followed)
    followed.poll()
    followed.complete_history()
    whole = Client()
    for client in (often, seldom, whole):
        client.take(followed)
    assert often.sections == seldom.sections == whole.sections
    fresh = FollowedRun(place, clock=lambda: clock[0])
    fresh.poll()
    fresh.complete_history()
    anew = json.loads(fresh.shot.text())["sections"]
    for name in ("rounds", "environments", "gates", "blueprints", "anomalies", "answers"):
        assert whole.sections[name] == anew[name], name
