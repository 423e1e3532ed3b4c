"""Metrics through Ray: exported, and exported again after the actor was killed."""

import time
from urllib.request import urlopen

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayError

from esper_actors.cluster.metrics_exporter import TRIES, RayExporter
from esper_ray.nissa.metrics.projection import Change

WAIT_SECONDS = 120


def exported():
    """Values by name and our labels, from the metrics agents of all nodes."""
    values = {}
    for node in ray.nodes():
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urlopen(address, timeout=30) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("ray_esper_"):
                    labels = {k: v for k, v in sample.labels.items() if k in ("run", "group", "state", "phase", "le")}
                    key = (sample.name, *(labels[name] for name in sorted(labels)))
                    values.setdefault(key, []).append(sample.value)
    return values


def wait_for(condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        values = exported()
        if condition(values):
            return values
        time.sleep(1.0)
    raise AssertionError(f"after {WAIT_SECONDS} s: {values}")


def wait_for_the_death_of(actor):
    try:
        while True:
            ray.get(actor.ready.remote(), timeout=WAIT_SECONDS)
    except RayError:
        return


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_metrics_are_exported_again_after_the_actor_was_killed(ray_cluster):
    exporter = RayExporter("run-t", "A")
    rounds = ("ray_esper_rounds_total", "A", "run-t")
    mean = ("ray_esper_return_mean", "A", "run-t")
    exporter.apply([Change("esper_rounds_total", 2), Change("esper_return_mean", 1.5)])
    exporter.apply([Change("esper_phase_duration_seconds", 0.5, ("play",))])

    def is_exported(values):
        exporter.apply([])
        return values.get(rounds) == [2.0] and values.get(mean) == [1.5]

    values = wait_for(is_exported)
    assert values["ray_esper_phase_duration_seconds_count", "A", "play", "run-t"] == [1.0]

    actor = exporter._worker._actor
    ray.kill(actor)
    wait_for_the_death_of(actor)
    exporter.apply([Change("esper_rounds_total", 1), Change("esper_return_mean", 2.5)])

    def is_exported_again(values):
        exporter.apply([])
        return sum(values.get(rounds, [])) == 3.0 and 2.5 in values.get(mean, [])

    wait_for(is_exported_again)
    assert exporter.restarts == 1
    assert "ray_esper_telemetry_restarts_total" in {key[0] for key in exported()}
    exporter.close()


@ray.remote(num_cpus=0)
class Broken:
    """Actor that cannot be started."""

    def __init__(self):
        raise OSError("no metrics agent here")

    def ready(self):
        raise AssertionError


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_run_finishes_without_an_actor_that_cannot_be_started(ray_cluster, monkeypatch):
    monkeypatch.setattr("esper_actors.cluster.metrics_exporter._started", lambda run, group, name: Broken.remote())
    exporter = RayExporter("run-b")
    deadline = time.monotonic() + WAIT_SECONDS
    while not any(fault.kind == "telemetry_actor_abandoned" for fault in exporter.faults):
        assert time.monotonic() < deadline, exporter.faults
        exporter.apply([Change("esper_return_mean", 1.0)])
        assert exporter.poll_samples() == []
        time.sleep(0.1)
    assert [fault.kind for fault in exporter.faults] == ["telemetry_actor_died"] * TRIES + ["telemetry_actor_abandoned"]
    assert exporter.actor is None
    exporter.apply([Change("esper_return_mean", 2.0)])
    exporter.close()
