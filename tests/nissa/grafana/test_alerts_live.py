"""Faults are put into a run; a real Prometheus rings, and is silent again when they are over.

Its rules are ours with minutes made seconds, so that a test does not take hours.
"""

import math
import re
import time

import pytest
from nissa_builders import complete
from prometheus_builders import needs_prometheus, running_prometheus

from esper_ray.leyline.actions import HEADS
from esper_ray.nissa.grafana.dashboard import files
from esper_ray.nissa.log.events import json_record
from esper_ray.nissa.metrics.exporter import PrometheusExporter
from esper_ray.nissa.metrics.publisher import MetricsPublisher

pytestmark = [pytest.mark.slow, needs_prometheus, pytest.mark.timeout(600)]
WAIT_SECONDS = 120


def hurried():
    """Our rules, a minute being a second, an hour a minute."""
    rules = re.sub(r"(?<=[\[ ])(\d+)m\b", r"\1s", files()["alerts.yaml"])
    return re.sub(r"(?<=[\[ ])(\d+)h\b", r"\1m", rules).replace("interval: 10s", "interval: 1s")


class Watched:
    """A run that is fed with events, and the Prometheus that follows it."""

    def __init__(self, prometheus, exporter, config):
        self.prometheus, self.exporter = prometheus, exporter
        self.feed, self.rounds = MetricsPublisher(config, exporter), 0
        self.feed.state("training")

    def round(self, *more, entropy=1.0, **update):
        """A round that is as it should be, but for what is given."""
        base = {"round": self.rounds, "episode": self.rounds}
        told = complete({"kind": "ppo_update", **base, "kl": 0.01, "optimizer_steps": 4, "explained_variance": 0.5})
        told |= {f"entropy_{head}": entropy for head in HEADS} | update
        rows = [
            complete({"kind": "outcome", **base}),
            *(complete(base | record) for record in more),
            json_record(told),
            complete({"kind": "round", **base, "val_accuracy_ratio": 0.5}),
        ]
        self.feed.records(rows)
        self.rounds += 1

    def until(self, name, *more, rings=True, **update):
        """Rounds follow each other until an alert rings, or does not any more."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (name in self.prometheus.ringing()) is not rings:
            assert time.monotonic() < deadline, (name, self.prometheus.get("alerts"))
            self.round(*more, **update)
            time.sleep(0.5)


@pytest.fixture(scope="module")
def watched(tmp_path_factory, tiny_config):
    folder = tmp_path_factory.mktemp("alerts")
    with PrometheusExporter("run", "", 0) as exporter:
        targets = [{"targets": [f"127.0.0.1:{exporter.port}"]}]
        with running_prometheus(folder, hurried(), static_configs=targets) as prometheus:
            run = Watched(prometheus, exporter, tiny_config)
            run.round()
            prometheus.wait_for("sum(ray_esper_rounds_total)")
            yield run


def test_the_rules_are_the_same_but_for_the_clock():
    ours, fast = files()["alerts.yaml"], hurried()
    assert len(re.findall(r"\d+[mh]\b", ours)) + 1 == len(re.findall(r"\d+[sm]\b", fast)) > 30  # their interval
    assert re.sub(r"\d+[smh]\b", "", ours) == re.sub(r"\d+[smh]\b", "", fast)


@pytest.mark.parametrize(
    ("name", "records", "update"),
    [
        pytest.param("NonFinite", (), {"policy_loss": math.nan}, id="NaN loss"),
        pytest.param("HeadCollapsed", (), {"entropy": 0.001}, id="entropy collapse"),
        pytest.param("RollbackStorm", ({"kind": "rollback", "reason": "loss"},), {}, id="rollback storm"),
        pytest.param("UpdateTooLarge", (), {"kl": 0.5}, id="update too large"),
        pytest.param("UpdatesWithoutSteps", (), {"optimizer_steps": 0}, id="updates without steps"),
    ],
)
def test_an_alert_rings_for_its_fault_and_is_silent_afterwards(watched, name, records, update):
    assert name not in watched.prometheus.ringing()
    watched.until(name, *records, **update)
    watched.until(name, rings=False)


def test_a_dead_environment_and_an_exporter_that_is_gone_ring_until_the_run_is_begun_again(watched, tiny_config):
    prometheus = watched.prometheus
    watched.until("EnvironmentGivenUp", {"kind": "environment_quarantined", "env": 1})
    watched.exporter.close()
    deadline = time.monotonic() + WAIT_SECONDS
    while "ExporterGone" not in prometheus.ringing():
        assert time.monotonic() < deadline, prometheus.get("alerts")
        time.sleep(0.5)
    with PrometheusExporter("run", "", watched.exporter.port) as back:
        again = Watched(prometheus, back, tiny_config)
        again.until("ExporterGone", rings=False)
        assert "EnvironmentGivenUp" not in prometheus.ringing()
