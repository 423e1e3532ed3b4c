"""Metrics as Prometheus reads them, and the feed that fills them."""

import logging
import threading
import time
from urllib.request import urlopen

import pytest
from nissa_builders import complete
from prometheus_client.parser import text_string_to_metric_families

from esper_ray.nissa.catalogue.metrics import METRICS, STATES
from esper_ray.nissa.metrics.exporter import ExporterError, PrometheusExporter
from esper_ray.nissa.metrics.projection import Change
from esper_ray.nissa.metrics.publisher import MetricsPublisher, head_choices

pytestmark = pytest.mark.integration


@pytest.fixture
def exporter():
    with PrometheusExporter("run-1", "A", 0) as made:
        yield made


def samples(exporter):
    """(name, values of the labels beside run and group by their names) -> value, as read over HTTP."""
    with urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {}
    for family in families:
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("run"), labels.pop("group")) == ("run-1", "A")
            found[sample.name, *(labels[name] for name in sorted(labels))] = sample.value
    return found


def test_counters_grow_gauges_change_and_histograms_see(exporter):
    exporter.apply([Change("esper_rounds_total", 1), Change("esper_return_mean", 2.5)])
    exporter.apply(iter([Change("esper_rounds_total", 2), Change("esper_return_mean", -1.0)]))
    exporter.apply([Change("esper_phase_duration_seconds", 0.5, ("play",))])
    found = samples(exporter)
    assert (found["ray_esper_rounds_total",], found["ray_esper_return_mean",]) == (3.0, -1.0)
    assert found["ray_esper_phase_duration_seconds_sum", "play"] == 0.5
    assert found["ray_esper_phase_duration_seconds_bucket", "0.3", "play"] == 0.0
    assert found["ray_esper_phase_duration_seconds_bucket", "1.0", "play"] == 1.0


def test_every_metric_of_the_catalogue_can_be_exported(exporter):
    exporter.apply(Change(m.name, 1.0, tuple(f"v{i}" for i in range(len(m.labels)))) for m in METRICS.values())
    shown = {name[0] for name in samples(exporter)}
    for metric in METRICS.values():
        assert (f"{metric.exported}_sum" if metric.type == "histogram" else metric.exported) in shown


def test_an_occupied_port_is_refused(exporter):
    with pytest.raises(ExporterError, match=rf"cannot be served on 127.0.0.1:{exporter.port}"):
        PrometheusExporter("run-2", "", exporter.port)


def test_after_the_end_nobody_answers():
    with PrometheusExporter("run-1", "A", 0) as made:
        port = made.port
    with pytest.raises(OSError, match=r"refused|urlopen"):
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2)


def test_a_feed_tells_what_the_run_is_and_when_something_happened(exporter, tiny_config):
    feed = MetricsPublisher(tiny_config, exporter, now=lambda: 1234.5)
    feed.state("training")
    feed.records([complete({"kind": "episode_started"}), complete({"kind": "round"})])
    feed.timed({"play_seconds": 3.0, "update_seconds": 2.0, "env_steps_per_second": 7.0})
    feed.fault("learner_died")
    found = samples(exporter)
    assert found["ray_esper_run_info", tiny_config.digest()[:12], "tamiyo", "basic", "digits"] == 1
    assert found["ray_esper_rounds_target",] == tiny_config.ppo.rounds
    assert {state: found["ray_esper_run_state", state] for state in STATES} == dict.fromkeys(STATES, 0.0) | {
        "training": 1
    }
    assert found["ray_esper_last_event_timestamp_seconds", "env"] == 1234.5
    assert found["ray_esper_last_event_timestamp_seconds", "driver"] == 1234.5
    assert found["ray_esper_env_steps_per_second",] == 7.0
    assert found["ray_esper_faults_total", "learner_died"] == 1


def test_the_longest_silence_is_remembered(exporter, tiny_config):
    clock = iter([0.0, 40.0, 45.0, 145.0, 150.0])
    feed = MetricsPublisher(tiny_config, exporter, now=lambda: next(clock))
    longest = []
    for _ in range(4):
        feed.records([complete({"kind": "round"})])
        longest.append(samples(exporter)["ray_esper_longest_silence_seconds",])
    assert longest == [40.0, 40.0, 100.0, 100.0]


def test_an_exporter_that_fails_is_reported_once_and_left_alone(tiny_config, caplog):
    class Broken:
        calls = 0

        def apply(self, changes):
            self.calls += 1
            list(changes)
            if self.calls > 1:
                raise OSError("the network is gone")

        def close(self):
            pass

    exporter = Broken()
    feed = MetricsPublisher(tiny_config, exporter)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            feed.records([complete({"kind": "round"})])
    assert exporter.calls == 2  # the run's information, and what failed
    assert caplog.text.count("no more metrics are exported") == 1
    assert "the network is gone" in caplog.text


def test_heads_have_as_many_choices_as_the_rules_of_growth_allow(tiny_config):
    assert head_choices(tiny_config) == {
        "op": 6,
        "slot": 3,
        "blueprint": 4,
        "style": 2,
        "tempo": 3,
        "alpha_target": 3,
        "alpha_speed": 4,
        "alpha_curve": 5,
    }


def test_at_the_end_it_waits_until_those_who_look_from_time_to_time_have_looked():
    exporter = PrometheusExporter("run", "", 0)
    address = f"http://127.0.0.1:{exporter.port}/metrics"
    for _ in range(2):
        urlopen(address, timeout=10).read()
    exporter.apply([Change("esper_rounds_done", 7)])
    closing = threading.Thread(target=exporter.close)
    closing.start()
    last = urlopen(address, timeout=10).read().decode()
    closing.join(10)
    assert not closing.is_alive()
    assert 'ray_esper_rounds_done{group="",run="run"} 7.0' in last


def test_whoever_has_never_looked_has_a_moment_for_it_and_none_if_it_must_end_at_once():
    exporter = PrometheusExporter("run", "", 0)
    address = f"http://127.0.0.1:{exporter.port}/metrics"
    closing = threading.Thread(target=exporter.close)
    closing.start()
    assert "ray_esper_rounds_done" in urlopen(address, timeout=10).read().decode()
    closing.join(10)
    assert not closing.is_alive()
    began = time.monotonic()
    PrometheusExporter("run", "", 0).close(at_once=True)
    assert time.monotonic() - began < 1.9
