"""A job on a real head is scraped by a real Prometheus, which finds it by Ray's service discovery."""

import time

import pytest
from head_builders import running_head
from prometheus_builders import needs_prometheus, running_prometheus

from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.grafana.dashboard import expressions
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow, needs_prometheus, pytest.mark.timeout(600)]
TRAIN = [
    *("train", "ppo", "--preset", "digits", "--rounds", "4", "--envs", "2", "--envs-per-actor", "2"),
    *("--memory-size", "16", "--ppo-epochs", "1", "--run-id", "watched", "--set", "telemetry.wait_every=1"),
]
MAY_BE_EMPTY = {
    "Seed outcomes",
    "Failed gate checks",
    "Seed lifespan",
    "Contribution by blueprint",
    "Vetoed germinations",
    "Rollbacks",
    "Non-finite values",
    "Process faults",
    "Explained variance",
    "Open anomalies",
    "Reward gaming rate",
    "GPU memory",
    "GPU utilisation",
    "GPU memory by environment",
}
"""Panels about what need not happen in a short run, or about GPUs."""


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """What every query gave while a job ran, and Prometheus after its end."""
    folder = tmp_path_factory.mktemp("followed")
    with running_head({"RAY_AUTH_MODE": "disabled"}) as head:
        discovery = head.folder / "ray" / "prom_metrics_service_discovery.json"
        results = {}
        with (
            running_prometheus(
                folder, file_sd_configs=[{"files": [str(discovery)], "refresh_interval": "1s"}]
            ) as prometheus,
            head.start("--", *TRAIN, "--telemetry-dir", str(folder / "runs")) as process,
        ):
            while process.poll() is None:
                for whose, expression in expressions(run="watched"):
                    if values := prometheus.values(expression):
                        results.setdefault((whose, expression), values)
                time.sleep(1.0)
            assert process.returncode == 0, process.stderr.read()
            (last,) = RunDirectory.open(folder / "runs" / "watched").rounds()[-1:]
            yield prometheus, results, int(last["env_steps"])


def test_every_query_that_must_have_data_has_data(followed):
    _, results, _ = followed
    empty = {
        (whose, expression)
        for whose, expression in expressions(run="watched")
        if whose.startswith("panel") and (whose, expression) not in results
    }
    titles = {whose.partition(" ")[2].strip("'") for whose, _ in empty}
    assert titles <= MAY_BE_EMPTY, empty


def test_no_paging_alert_fires_for_a_healthy_run(followed):
    """Alerts about a policy in its first rounds are not paging and have a delay."""
    _, results, _ = followed
    reasons = {whose.partition(" ")[2] for whose, _ in results if whose.startswith("alert")}
    assert not {name for name in reasons if ALERTS[name].severity == "page"}, results


def test_the_numbers_are_those_of_the_run(followed):
    prometheus, _, played = followed
    last = "last_over_time({}[10m])"
    assert prometheus.values(f"sum({last.format('ray_esper_env_steps_total')})") == [played]
    assert prometheus.values(last.format('ray_esper_run_state{state="finished"}')) == [1.0]
    assert prometheus.values(f"max({last.format('ray_esper_rounds_done')})") == [4.0]
    (sampled,) = prometheus.values(f"sum({last.format('ray_esper_telemetry_events_total{delivery=`sample`}')})")
    assert sampled >= played
