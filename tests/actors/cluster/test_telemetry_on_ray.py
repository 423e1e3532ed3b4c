"""Samples on their way to the telemetry actor: bounded, counted when lost, never waited for."""

import asyncio
import time

import pytest
import ray
from watching_builders import samples, told, watched_run

from esper_actors.cluster.metrics_exporter import RayExporter
from esper_actors.cluster.telemetry_actor import IN_FLIGHT, MAILBOX, SampleSender, TelemetryActor
from esper_actors.rollout.sampling import SampleBatch, SampleTracker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(240)]


@ray.remote(num_cpus=0)
class Slow:
    """Takes samples in when it is told to."""

    def __init__(self):
        self.open, self.found = False, []

    async def push(self, told):
        while not self.open:
            await asyncio.sleep(0.01)
        self.found.append(told.before)

    async def taken(self):
        return self.found

    async def let_in(self):
        self.open = True


@pytest.fixture
def actor():
    made = TelemetryActor.remote("run", "")
    ray.get(made.ready.remote())
    yield made
    ray.kill(made)


def until(condition):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("nothing after a minute")


def step(number):
    return SampleBatch("a", number, {"step": number}, ())


def test_what_is_pushed_is_handed_out_once_and_in_order(actor):
    push, found = SampleSender(actor), []
    for number in range(IN_FLIGHT):
        push(step(number))

    def all_of_it():
        found.extend(told.before for told in ray.get(actor.drain.remote()))
        return len(found) == IN_FLIGHT

    until(all_of_it)
    assert found == list(range(IN_FLIGHT))
    assert ray.get(actor.drain.remote()) == []


def test_more_than_a_few_calls_are_never_under_way():
    slow = Slow.remote()
    push = SampleSender(slow)
    for number in range(IN_FLIGHT + 3):
        push(step(number))
    ray.get(slow.let_in.remote())
    until(lambda: len(ray.get(slow.taken.remote())) == IN_FLIGHT)
    push(step(99))
    assert until(lambda: ray.get(slow.taken.remote())[IN_FLIGHT:]) == [99]
    ray.kill(slow)


def test_a_mailbox_that_is_full_takes_no_more(actor):
    for number in range(MAILBOX + 3):
        last = actor.push.remote(step(number))
    ray.get(last)
    assert [told.before for told in ray.get(actor.drain.remote())] == list(range(MAILBOX))


def test_an_actor_that_is_gone_is_left_alone(actor):
    push = SampleSender(actor)
    ray.kill(actor)

    def noticed():
        push(step(0))
        return push._actor_lost

    until(noticed)
    push(step(1))
    assert push._in_flight == []


@pytest.fixture(scope="module")
def on_ray(tiny_config, tmp_path_factory, ray_cluster):
    return watched_run(tiny_config, tmp_path_factory.mktemp("ray"), "debug", workers="ray")


def test_a_run_on_ray_is_the_same_however_closely_it_is_watched(on_ray, tiny_config, tmp_path):
    run, digest, _ = on_ray
    quiet, quiet_digest, _ = watched_run(tiny_config, tmp_path, "off")
    assert digest == quiet_digest
    assert (run.path / "rounds.csv").read_bytes() == (quiet.path / "rounds.csv").read_bytes()
    assert told(run) == told(quiet)


def test_samples_of_environment_actors_arrive_while_they_play(on_ray):
    run, _, telling = on_ray
    seen = samples(run, "profile")
    assert {record["env"] for record in seen} <= {0, 1, 2}
    assert seen
    assert all(record["seconds"].keys() >= {"decide", "train", "measure"} for record in seen)
    counted = sum(change.value for change in telling.changes if change.labels == ("sample",))
    assert counted == len(seen) + len(samples(run, "decision")) + len(samples(run, "samples_lost"))


def test_an_episode_on_ray_shows_before_it_is_over(tiny_config, tmp_path):
    training = tiny_config.training.model_copy(update={"steps_per_epoch": 40})
    system = tiny_config.system.model_copy(update={"envs": 1, "envs_per_actor": 1})
    ppo = tiny_config.ppo.model_copy(update={"rounds": 1})
    changes = {"training": training, "system": system, "ppo": ppo, "episode_length": 20}
    _, _, telling = watched_run(tiny_config.model_copy(update=changes), tmp_path, "normal", workers="ray")
    names = [one[0] for one in telling.heard]
    assert names.index("esper_env_accuracy_ratio") < names.index("episode")


def test_every_sample_arrives_or_is_counted_when_the_telemetry_actor_is_killed(tiny_config, tmp_path, monkeypatch):
    receipts, killed = [], []
    finished, poll = SampleTracker.finished, RayExporter.poll_samples

    def kill_it(exporter):
        found = poll(exporter)
        if not killed and any(one.samples for one in found):
            killed.append(True)
            ray.kill(exporter.actor)
        return found

    def remember(arrivals, receipt):
        receipts.append(receipt)
        finished(arrivals, receipt)

    monkeypatch.setattr(RayExporter, "poll_samples", kill_it)
    monkeypatch.setattr(SampleTracker, "finished", remember)
    training = tiny_config.training.model_copy(update={"steps_per_epoch": 40})
    ppo = tiny_config.ppo.model_copy(update={"rounds": 1})
    config = tiny_config.model_copy(update={"training": training, "ppo": ppo, "episode_length": 12})
    run, _, _ = watched_run(config, tmp_path, "debug", workers="ray")
    arrived = len(samples(run, "decision")) + len(samples(run, "profile"))
    lost = sum(record["count"] for record in samples(run, "samples_lost"))
    assert killed
    assert lost > 0
    assert arrived + lost == sum(receipt.count for receipt in receipts)
