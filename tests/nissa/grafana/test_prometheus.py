"""Evaluation of every panel and every alert by a real Prometheus that scrapes a run."""

import pytest
from nissa_builders import complete
from prometheus_builders import needs_prometheus, running_prometheus

from esper_ray.leyline.actions import HEADS
from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.catalogue.queries import increase
from esper_ray.nissa.grafana.dashboard import RAY_METRICS, expressions, filled
from esper_ray.nissa.metrics.exporter import PrometheusExporter
from esper_ray.nissa.metrics.publisher import MetricsPublisher

EMPTY_PANELS = {
    "Seed outcomes",
    "Failed gate checks",
    "Seed lifespan",
    "Contribution by blueprint",
    "Vetoed germinations",
    "Rollbacks",
    "Reward gaming rate",
    "Non-finite values",
    "Process faults",
    "GPU memory",
    "GPU utilisation",
    "CPU utilisation",
    "Ray actors",
    "Return-accuracy correlation",
    "Explained variance",
}
"""Panels that may be empty: without an event so far, for longer runs only, or from Ray's metrics."""

pytestmark = [pytest.mark.slow, needs_prometheus]


def a_round(index, envs=2, steps=4):
    """Events of a round with one seed."""
    report = {"seed": "r0c0-1", "blueprint": "norm", "stage": "BLENDING", "alpha": 0.5, "contribution_pp": 3.0}
    entries = [{"source": "rent", "slot": None, "amount": -0.1, "cause_step": 0, "why": ""}]
    for env in range(envs):
        base = {"env": env, "round": index, "episode": index * envs + env, "val_accuracy_pp": 50.0, "val_loss": 1.0}
        yield complete({"kind": "episode_started", **base})
        yield complete({"kind": "control", **base})
        germination = {
            "kind": "seed_transition",
            "slot": "r0c0",
            "seed": "r0c0-1",
            "from": "DORMANT",
            "to": "GERMINATED",
        }
        yield complete(germination | {"env": env, "blueprint": "norm", "initiator": "policy"})
        for step in range(1, steps + 1):
            record = {"kind": "env_epoch", **base, "step": step, "operation": "WAIT", "success": step > 1}
            yield complete(record | {"slots": {"r0c0": report}, "entries": entries, "log_prob": -0.5})
        yield complete({"kind": "outcome", **base, "step": steps, "total_reward": env + 1.0})
    update = {"kind": "ppo_update", "kl": 0.01, "optimizer_steps": 4}
    yield complete(update | {f"entropy_{head}": 0.5 for head in HEADS})
    yield complete({"kind": "round", "round": index, "val_accuracy_ratio": 0.5})
    if index == 1:
        yield complete({"kind": "anomaly", "round": index, "type": "nothing_grows", "open": True})


@pytest.fixture(scope="module")
def watched(tmp_path_factory, tiny_config):
    """Prometheus after three rounds of a run."""
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        PrometheusExporter("run", "", 0) as exporter,
        running_prometheus(folder, static_configs=[{"targets": [f"127.0.0.1:{exporter.port}"]}]) as prometheus,
    ):
        publisher = MetricsPublisher(tiny_config, exporter)
        publisher.state("training")
        for index in range(3):
            publisher.records(a_round(index))
            publisher.samples([complete({"kind": "profile", "seconds": {"train": 0.5}, "cuda_bytes": {"peak": 1e9}})])
            publisher.timed({"play_seconds": 2.0, "update_seconds": 0.5, "env_steps_per_second": 3.2})
            prometheus.wait_for(f"sum(ray_esper_rounds_total) == {index + 1}")
        prometheus.wait_for("sum(increase(ray_esper_rounds_total[5m])) > 0")
        yield prometheus


@pytest.mark.parametrize(("owner", "expression"), list(expressions()))
def test_every_query_is_evaluated_and_has_data_unless_listed_as_empty(watched, owner, expression):
    values = watched.values(expression)
    title = owner.partition(" ")[2].strip("'")
    if owner.startswith("panel") and title not in EMPTY_PANELS:
        assert values, expression
    if owner.startswith("alert"):
        assert values == [], expression


def test_metrics_of_ray_are_absent_without_ray(watched):
    assert [name for name in RAY_METRICS if watched.values(name)] == []


def test_values_in_prometheus_equal_those_of_the_run(watched):
    assert watched.values("sum(ray_esper_env_steps_total)") == [24.0]
    assert watched.values('sum(ray_esper_actions_total{result="refused"})') == [6.0]
    assert watched.values("ray_esper_round_accuracy_ratio") == [0.5]
    assert watched.values('ray_esper_slot_contribution_ratio{env="1",slot="r0c0"}') == [0.03]
    assert watched.values('ray_esper_reward_component_mean{component="rent"}') == [pytest.approx(-0.1)]


def test_all_rules_are_loaded_and_healthy(watched):
    (group,) = watched.get("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    assert len(group["rules"]) == len(ALERTS)


def test_the_increase_over_the_range_includes_the_first_sample(watched):
    expression = filled(increase("ppo_updates_total", "result"), run="run")
    assert watched.values(expression) == [3.0]
    assert watched.values(filled(increase("env_steps_total", "group"), run="run")) == [24.0]
