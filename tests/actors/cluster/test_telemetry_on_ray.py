"""Samples sent to the telemetry actor: bounded queue, counted losses, no waiting."""

import asyncio
import time

import pytest
import ray
from watching_builders import event_records, samples, watched_run

from esper_actors.cluster.metrics_exporter import RayExporter
from esper_actors.cluster.telemetry_actor import IN_FLIGHT, MAILBOX, SampleSender, TelemetryActor
from esper_actors.rollout.sampling import SampleBatch, SampleTracker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(240)]


@ray.remote(num_cpus=0)
class BlockedReceiver:
    """Receiver whose pushes block until ``unblock``."""

    def __init__(self):
        self.blocked, self.received = True, []

    async def push(self, batch):
        while self.blocked:
            await asyncio.sleep(0.01)
        self.received.append(batch.before)

    async def numbers(self):
        return self.received

    async def unblock(self):
        self.blocked = False


@pytest.fixture
def actor():
    telemetry_actor = TelemetryActor.remote("run", "")
    ray.get(telemetry_actor.ready.remote())
    yield telemetry_actor
    ray.kill(telemetry_actor)


def until(condition):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError("condition not met within a minute")


def step(number):
    return SampleBatch("a", number, {"step": number}, ())


@pytest.mark.nightly
def test_pushed_batches_are_drained_once_and_in_order(actor):
    push, drained = SampleSender(actor), []
    for number in range(IN_FLIGHT):
        push(step(number))

    def all_drained():
        drained.extend(batch.before for batch in ray.get(actor.drain.remote()))
        return len(drained) == IN_FLIGHT

    until(all_drained)
    assert drained == list(range(IN_FLIGHT))
    assert ray.get(actor.drain.remote()) == []


def test_the_number_of_pushes_in_flight_is_limited():
    receiver = BlockedReceiver.remote()
    push = SampleSender(receiver)
    for number in range(IN_FLIGHT + 3):
        push(step(number))
    ray.get(receiver.unblock.remote())
    until(lambda: len(ray.get(receiver.numbers.remote())) == IN_FLIGHT)
    push(step(99))
    assert until(lambda: ray.get(receiver.numbers.remote())[IN_FLIGHT:]) == [99]
    ray.kill(receiver)


@pytest.mark.nightly
def test_a_full_mailbox_drops_further_batches(actor):
    for number in range(MAILBOX + 3):
        last = actor.push.remote(step(number))
    ray.get(last)
    assert [batch.before for batch in ray.get(actor.drain.remote())] == list(range(MAILBOX))


def test_nothing_is_sent_to_a_lost_actor(actor):
    push = SampleSender(actor)
    ray.kill(actor)

    def loss_detected():
        push(step(0))
        return push._actor_lost

    until(loss_detected)
    push(step(1))
    assert push._in_flight == []


@pytest.fixture(scope="module")
def on_ray(tiny_config, tmp_path_factory, ray_cluster):
    return watched_run(tiny_config, tmp_path_factory.mktemp("ray"), "debug", workers="ray")


@pytest.mark.nightly
def test_a_run_on_ray_is_equal_at_every_telemetry_level(on_ray, tiny_config, tmp_path):
    run, digest, _ = on_ray
    quiet, quiet_digest, _ = watched_run(tiny_config, tmp_path, "off")
    assert digest == quiet_digest
    assert (run.path / "rounds.csv").read_bytes() == (quiet.path / "rounds.csv").read_bytes()
    assert event_records(run) == event_records(quiet)


@pytest.mark.nightly
def test_samples_of_environment_actors_arrive_during_the_episodes(on_ray):
    run, _, observer = on_ray
    profiles = samples(run, "profile")
    assert {record["env"] for record in profiles} <= {0, 1, 2}
    assert profiles
    assert all(record["seconds"].keys() >= {"decide", "train", "measure"} for record in profiles)
    counted = sum(change.value for change in observer.changes if change.labels == ("sample",))
    assert counted == len(profiles) + len(samples(run, "decision")) + len(samples(run, "samples_lost"))


@pytest.mark.nightly
def test_an_episode_on_ray_appears_in_the_metrics_before_its_end(tiny_config, tmp_path):
    training = tiny_config.training.model_copy(update={"steps_per_epoch": 40})
    system = tiny_config.system.model_copy(update={"envs": 1, "envs_per_actor": 1})
    ppo = tiny_config.ppo.model_copy(update={"rounds": 1})
    changes = {"training": training, "system": system, "ppo": ppo, "episode_length": 20}
    _, _, observer = watched_run(tiny_config.model_copy(update=changes), tmp_path, "normal", workers="ray")
    names = [entry[0] for entry in observer.entries]
    assert names.index("esper_env_accuracy_ratio") < names.index("episode")


@pytest.mark.nightly
def test_every_sample_arrives_or_is_counted_when_the_telemetry_actor_is_killed(tiny_config, tmp_path, monkeypatch):
    summaries, killed = [], []
    finished, poll = SampleTracker.finished, RayExporter.poll_samples

    def poll_and_kill(exporter):
        batches = poll(exporter)
        if not killed and any(batch.samples for batch in batches):
            killed.append(True)
            ray.kill(exporter.actor)
        return batches

    def record_summary(tracker, summary):
        summaries.append(summary)
        finished(tracker, summary)

    monkeypatch.setattr(RayExporter, "poll_samples", poll_and_kill)
    monkeypatch.setattr(SampleTracker, "finished", record_summary)
    training = tiny_config.training.model_copy(update={"steps_per_epoch": 40})
    ppo = tiny_config.ppo.model_copy(update={"rounds": 1})
    config = tiny_config.model_copy(update={"training": training, "ppo": ppo, "episode_length": 12})
    run, _, _ = watched_run(config, tmp_path, "debug", workers="ray")
    arrived = len(samples(run, "decision")) + len(samples(run, "profile"))
    lost = sum(record["count"] for record in samples(run, "samples_lost"))
    assert killed
    assert lost > 0
    assert arrived + lost == sum(summary.count for summary in summaries)
