"""Alerts of a real Prometheus for faults that are injected into a run.

The rules are ours with minutes replaced by seconds, so that a test does not take hours.
"""

import math
import re
import time

import pytest
from nissa_builders import complete
from prometheus_builders import needs_prometheus, running_prometheus

from esper_ray.leyline.actions import HEADS
from esper_ray.nissa.grafana.dashboard import files
from esper_ray.nissa.log.finite import json_record
from esper_ray.nissa.metrics.exporter import PrometheusExporter
from esper_ray.nissa.metrics.publisher import MetricsPublisher

pytestmark = [pytest.mark.slow, needs_prometheus, pytest.mark.timeout(600)]
WAIT_SECONDS = 120


def accelerated_rules():
    """Our rules with seconds for minutes and minutes for hours."""
    rules = re.sub(r"(?<=[\[ ])(\d+)m\b", r"\1s", files()["alerts.yaml"])
    return re.sub(r"(?<=[\[ ])(\d+)h\b", r"\1m", rules).replace("interval: 10s", "interval: 1s")


class Watched:
    """A run that publishes events, and the Prometheus that scrapes it."""

    def __init__(self, prometheus, exporter, config):
        self.prometheus, self.exporter = prometheus, exporter
        self.publisher, self.rounds = MetricsPublisher(config, exporter), 0
        self.publisher.state("training")

    def round(self, *more, entropy=1.0, **update):
        """Publish a healthy round with the given changes."""
        base = {"round": self.rounds, "episode": self.rounds}
        update_record = complete(
            {"kind": "ppo_update", **base, "kl": 0.01, "optimizer_steps": 4, "explained_variance": 0.5}
        )
        update_record |= {f"entropy_{head}": entropy for head in HEADS} | update
        rows = [
            complete({"kind": "outcome", **base}),
            *(complete(base | record) for record in more),
            json_record(update_record),
            complete({"kind": "round", **base, "val_accuracy_ratio": 0.5}),
        ]
        self.publisher.records(rows)
        self.rounds += 1

    def until(self, name, *more, firing=True, **update):
        """Publish rounds until the alert ``name`` fires, or no longer fires."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (name in self.prometheus.firing_alerts()) is not firing:
            assert time.monotonic() < deadline, (name, self.prometheus.get("alerts"))
            self.round(*more, **update)
            time.sleep(0.5)


@pytest.fixture(scope="module")
def watched(tmp_path_factory, tiny_config):
    folder = tmp_path_factory.mktemp("alerts")
    with PrometheusExporter("run", "", 0) as exporter:
        targets = [{"targets": [f"127.0.0.1:{exporter.port}"]}]
        with running_prometheus(folder, accelerated_rules(), static_configs=targets) as prometheus:
            run = Watched(prometheus, exporter, tiny_config)
            run.round()
            prometheus.wait_for("sum(ray_esper_rounds_total)")
            yield run


def test_accelerated_rules_differ_in_their_durations_only():
    ours, fast = files()["alerts.yaml"], accelerated_rules()
    assert len(re.findall(r"\d+[mh]\b", ours)) + 1 == len(re.findall(r"\d+[sm]\b", fast)) > 30  # their interval
    assert re.sub(r"\d+[smh]\b", "", ours) == re.sub(r"\d+[smh]\b", "", fast)


@pytest.mark.parametrize(
    ("name", "records", "update"),
    [
        pytest.param("NonFinite", (), {"policy_loss": math.nan}, id="NaN loss", marks=pytest.mark.nightly),
        pytest.param("HeadCollapsed", (), {"entropy": 0.001}, id="entropy collapse", marks=pytest.mark.nightly),
        pytest.param(
            "RollbackStorm",
            ({"kind": "rollback", "reason": "loss"},),
            {},
            id="rollback storm",
            marks=pytest.mark.nightly,
        ),
        pytest.param("UpdateTooLarge", (), {"kl": 0.5}, id="update too large", marks=pytest.mark.nightly),
        pytest.param(
            "MinibatchesSkipped", (), {"skipped_minibatches": 2}, id="skipped minibatches", marks=pytest.mark.nightly
        ),
        pytest.param(
            "UpdatesWithoutSteps", (), {"optimizer_steps": 0}, id="updates without steps", marks=pytest.mark.nightly
        ),
    ],
)
def test_an_alert_fires_for_its_fault_and_resolves_afterwards(watched, name, records, update):
    assert name not in watched.prometheus.firing_alerts()
    watched.until(name, *records, **update)
    watched.until(name, firing=False)


@pytest.mark.nightly
def test_quarantine_and_missing_exporter_fire_until_the_run_is_restarted(watched, tiny_config):
    prometheus = watched.prometheus
    watched.until("EnvironmentQuarantined", {"kind": "environment_quarantined", "env": 1})
    watched.exporter.close()
    deadline = time.monotonic() + WAIT_SECONDS
    while "ExporterGone" not in prometheus.firing_alerts():
        assert time.monotonic() < deadline, prometheus.get("alerts")
        time.sleep(0.5)
    with PrometheusExporter("run", "", watched.exporter.port) as restarted_exporter:
        restarted = Watched(prometheus, restarted_exporter, tiny_config)
        restarted.until("ExporterGone", firing=False)
        assert "EnvironmentQuarantined" not in prometheus.firing_alerts()
