"""Job on a real head: output, actors, and metrics by service discovery in a real Prometheus."""

import json
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from head_builders import TOKEN
from prometheus_builders import PROMETHEUS, needs_prometheus, running_prometheus

from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.grafana.dashboard import expressions
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = [pytest.mark.nightly, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ROUNDS = 3
TRAIN = [
    *("train", "ppo", "--preset", "digits", "--rounds", str(ROUNDS), "--envs", "2", "--envs-per-actor", "2"),
    *("--memory-size", "16", "--ppo-epochs", "1", "--run-id", "watched", "--set", "telemetry.wait_every=1"),
    *("--set", "training.steps_per_epoch=4", "--episode-length", "20"),
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
"""Panels of events that a short run may lack, and of GPUs."""


@dataclass
class Followed:
    """Output of a job and results of all queries during it; Prometheus still has its series."""

    out: str
    actors: list[tuple[str, str, str]]
    run: RunDirectory
    series: set[str]
    prometheus: Any
    results: dict[tuple[str, str], list[float]]


@pytest.fixture(scope="module")
def followed(tmp_path_factory, head):
    folder = tmp_path_factory.mktemp("followed")
    discovery = head.folder / "ray" / "prom_metrics_service_discovery.json"
    command = ["--env", "COLUMNS=200", "--", *TRAIN, "--telemetry-dir", str(folder)]
    series, results, prometheus = set(), {}, None
    with ExitStack() as stack:
        if PROMETHEUS is not None:
            targets = [{"files": [str(discovery)], "refresh_interval": "1s"}]
            prometheus = stack.enter_context(running_prometheus(folder, file_sd_configs=targets))
        process = stack.enter_context(head.start(*command))
        while process.poll() is None:
            series |= positive_series(discovery)
            if prometheus is not None:
                results |= {
                    query: values for query in expressions(run="watched") if (values := prometheus.values(query[1]))
                }
            time.sleep(3.0)
        out, err = process.stdout.read(), process.stderr.read()
        assert process.returncode == 0, out + err
        yield Followed(out, actors_of(head), RunDirectory.open(folder / "watched"), series, prometheus, results)


def positive_series(discovery: Path) -> set[str]:
    """Series of the run with a positive value, from the targets of Ray's service discovery."""
    lines = []
    for group in json.loads(discovery.read_text()) if discovery.exists() else []:
        for target in group["targets"]:
            with suppress(OSError), urlopen(f"http://{target}/metrics", timeout=30) as answer:
                lines += [line for line in answer.read().decode().splitlines() if line.startswith("ray_esper_")]
    pairs = (line.rsplit(" ", 1) for line in lines)
    return {name for name, value in pairs if 'run="watched"' in name and float(value) > 0}


def actors_of(head):
    """(name, class, state) of the actors that the dashboard lists, dead ones included."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with urlopen(Request(f"{head.address}/api/v0/actors?detail=true", headers=headers), timeout=60) as answer:
        actors = json.load(answer)["data"]["result"]["result"]
    return [(actor["name"], actor["class_name"], actor["state"]) for actor in actors]


def test_a_job_runs_and_its_output_and_actors_are_shown(followed, head):
    assert len(followed.run.rounds()) == ROUNDS
    assert "watched" in followed.out
    assert f":{head.port}: environment actors" in followed.out  # the job has joined this head
    actors = [actor for actor in followed.actors if actor[0].startswith("watched")]
    assert sorted(actors) == [
        ("watched/environment-0#2", "EnvironmentActor", "DEAD"),  # the job has ended
        ("watched/learner#0", "LearnerActor", "DEAD"),
        ("watched/telemetry#1", "TelemetryActor", "DEAD"),
    ]


def test_metrics_of_a_job_include_the_final_state_of_its_run(followed):
    names = {name.partition("{")[0] for name in followed.series}
    assert {"ray_esper_rounds_total", "ray_esper_run_info", "ray_esper_episodes_total"} <= names
    assert any('state="finished"' in name for name in followed.series)


@needs_prometheus
def test_every_query_has_data_unless_listed_as_possibly_empty(followed):
    empty = [
        query for query in expressions(run="watched") if query[0].startswith("panel") and query not in followed.results
    ]
    titles = {owner.partition(" ")[2].strip("'") for owner, _ in empty}
    assert titles <= MAY_BE_EMPTY, empty


@needs_prometheus
def test_no_paging_alert_fires_for_a_healthy_run(followed):
    """Alerts about a policy in its first rounds are not paging and have a delay."""
    reasons = {owner.partition(" ")[2] for owner, _ in followed.results if owner.startswith("alert")}
    assert not {name for name in reasons if ALERTS[name].severity == "page"}, followed.results


@needs_prometheus
def test_values_in_prometheus_equal_those_of_the_run(followed):
    prometheus, played = followed.prometheus, int(followed.run.rounds()[-1]["env_steps"])

    def last(metric, labels=""):
        return f"last_over_time({metric}{{run='watched'{labels}}}[10m])"

    assert prometheus.values(f"sum({last('ray_esper_env_steps_total')})") == [played]
    assert prometheus.values(last("ray_esper_run_state", ", state='finished'")) == [1.0]
    assert prometheus.values(f"max({last('ray_esper_rounds_done')})") == [float(ROUNDS)]
    (sampled,) = prometheus.values(f"sum({last('ray_esper_telemetry_events_total', ', delivery=`sample`')})")
    assert sampled >= played
