"""Prometheus exporter and the publisher of its metrics."""

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
    with PrometheusExporter("run-1", "A", 0) as opened:
        yield opened


def samples(exporter):
    """Values as read over HTTP, by metric name and label values (without run and group, ordered by label name)."""
    with urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    values = {}
    for family in families:
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("run"), labels.pop("group")) == ("run-1", "A")
            values[sample.name, *(labels[name] for name in sorted(labels))] = sample.value
    return values


def test_counters_add_gauges_replace_and_histograms_observe(exporter):
    exporter.apply([Change("esper_rounds_total", 1), Change("esper_return_mean", 2.5)])
    exporter.apply(iter([Change("esper_rounds_total", 2), Change("esper_return_mean", -1.0)]))
    exporter.apply([Change("esper_phase_duration_seconds", 0.5, ("play",))])
    values = samples(exporter)
    assert (values["ray_esper_rounds_total",], values["ray_esper_return_mean",]) == (3.0, -1.0)
    assert values["ray_esper_phase_duration_seconds_sum", "play"] == 0.5
    assert values["ray_esper_phase_duration_seconds_bucket", "0.3", "play"] == 0.0
    assert values["ray_esper_phase_duration_seconds_bucket", "1.0", "play"] == 1.0


def test_every_metric_of_the_catalogue_can_be_exported(exporter):
    exporter.apply(Change(m.name, 1.0, tuple(f"v{i}" for i in range(len(m.labels)))) for m in METRICS.values())
    shown = {name[0] for name in samples(exporter)}
    for metric in METRICS.values():
        assert (f"{metric.exported}_sum" if metric.type == "histogram" else metric.exported) in shown


def test_an_occupied_port_is_refused(exporter):
    with pytest.raises(ExporterError, match=rf"cannot be served on 127.0.0.1:{exporter.port}"):
        PrometheusExporter("run-2", "", exporter.port)


def test_a_closed_exporter_refuses_connections():
    with PrometheusExporter("run-1", "A", 0) as opened:
        port = opened.port
    with pytest.raises(OSError, match=r"refused|urlopen"):
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2)


def test_the_publisher_exports_run_info_state_and_event_times(exporter, tiny_config):
    publisher = MetricsPublisher(tiny_config, exporter, now=lambda: 1234.5)
    publisher.state("training")
    publisher.records([complete({"kind": "episode_started"}), complete({"kind": "round"})])
    publisher.timed({"play_seconds": 3.0, "update_seconds": 2.0, "env_steps_per_second": 7.0})
    publisher.fault("learner_died")
    values = samples(exporter)
    assert values["ray_esper_run_info", tiny_config.digest()[:12], "tamiyo", "basic", "digits"] == 1
    assert values["ray_esper_rounds_target",] == tiny_config.ppo.rounds
    assert {state: values["ray_esper_run_state", state] for state in STATES} == dict.fromkeys(STATES, 0.0) | {
        "training": 1
    }
    assert values["ray_esper_last_event_timestamp_seconds", "env"] == 1234.5
    assert values["ray_esper_last_event_timestamp_seconds", "driver"] == 1234.5
    assert values["ray_esper_env_steps_per_second",] == 7.0
    assert values["ray_esper_faults_total", "learner_died"] == 1


def test_the_longest_silence_is_the_maximum_gap_between_events(exporter, tiny_config):
    clock = iter([0.0, 40.0, 45.0, 145.0, 150.0])
    publisher = MetricsPublisher(tiny_config, exporter, now=lambda: next(clock))
    longest = []
    for _ in range(4):
        publisher.records([complete({"kind": "round"})])
        longest.append(samples(exporter)["ray_esper_longest_silence_seconds",])
    assert longest == [40.0, 40.0, 100.0, 100.0]


def test_a_failing_exporter_is_reported_once_and_not_called_again(tiny_config, caplog):
    class Broken:
        calls = 0

        def apply(self, changes):
            self.calls += 1
            list(changes)
            if self.calls > 1:
                raise OSError("the network is down")

        def close(self):
            pass

    exporter = Broken()
    publisher = MetricsPublisher(tiny_config, exporter)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            publisher.records([complete({"kind": "round"})])
    assert exporter.calls == 2  # the run's information, and what failed
    assert caplog.text.count("no more metrics are exported") == 1
    assert "the network is down" in caplog.text


def test_head_choices_follow_the_growth_configuration(tiny_config):
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


def test_closing_waits_for_the_final_scrape_of_a_regular_scraper():
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


def test_closing_waits_briefly_without_a_scrape_and_not_at_all_at_once():
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
