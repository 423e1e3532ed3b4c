"""Dashboard and alert rules: current, valid, complete, and limited to metrics that exist."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml
from nissa_builders import complete

from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS, METRICS
from esper_ray.nissa.catalogue.panels import ROWS
from esper_ray.nissa.grafana.dashboard import HEIGHT, WIDTH, dashboard, expressions, files, rules, unknown_metrics
from esper_ray.nissa.metrics.projection import MetricsProjection
from esper_ray.nissa.state.run_state import RunState

DASHBOARDS = Path(__file__).parents[3] / "dashboards"
UNITS = {"bytes", "s", "none", "ops", "percentunit", "percent", "short"}
SERIES = 3000
"""Maximum number of series of one group of a run."""


@pytest.mark.parametrize("name", files())
def test_a_committed_file_equals_the_rendered_one(name):
    assert (DASHBOARDS / name).read_text() == files()[name], "run `esper dashboards render`"


def test_every_query_parses_and_names_metrics_that_exist():
    queries = list(expressions())
    assert len(queries) > 60
    for owner, expression in queries:
        assert promql_parser.parse(expression) is not None, owner
        assert unknown_metrics(expression) == [], owner
        assert "$" not in expression, owner


def test_an_unknown_metric_is_named():
    assert unknown_metrics("sum(ray_esper_round_total) / ray_esper_rounds_total") == ["ray_esper_round_total"]
    assert unknown_metrics("ray_esper_phase_duration_seconds_bucket + ray_node_cpu_utilization") == []
    assert unknown_metrics("ray_node_gpu_utilization") == ["ray_node_gpu_utilization"]


def test_every_metric_is_in_a_panel_or_an_alert_or_listed_as_unused():
    shown = {name for _, expression in expressions() for name in re.findall(r"\bray_esper_\w+", expression)}
    shown = {re.sub(r"_bucket$", "", name) for name in shown}
    unused = {metric.exported for metric in METRICS.values()} - shown
    assert unused == {  # for queries of users and for the variables of the dashboard
        "ray_esper_run_info",
        "ray_esper_env_best_accuracy_ratio",
        "ray_esper_env_val_loss_nats",
        "ray_esper_env_growth_ratio",
        "ray_esper_slot_stage_code",
        "ray_esper_gate_evaluations_total",
        "ray_esper_return_std",
        "ray_esper_ppo_optimizer_steps",
        "ray_esper_ppo_policy_loss_nats",
        "ray_esper_ppo_value_loss",
        "ray_esper_ppo_entropy_nats",
        "ray_esper_ppo_epsilon_ratio",
        "ray_esper_ppo_entropy_coefficient",
        "ray_esper_telemetry_restarts_total",
    }


def test_the_dashboard_has_seven_rows_without_overlapping_panels():
    panels = dashboard()["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == [
        "Run state",
        "Accuracy",
        "Lifecycle",
        "Policy",
        "Critic and reward",
        "Safety and numerics",
        "System",
    ]
    occupied = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & occupied, panel["title"]
        occupied |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["gridPos"]["h"] for panel in panels} == {1, HEIGHT}


def test_every_panel_has_description_unit_and_legends():
    for panel in (panel for row in ROWS for panel in row.panels):
        assert len(panel.about) > 10
        assert panel.about.endswith(".")
        assert panel.unit in UNITS
        for query in panel.queries:
            assert query.legend, panel.title
            labels = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
            assert labels <= set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query.expression))))


def test_the_dashboard_has_variables_for_source_run_group_and_environment():
    tree = json.loads(files()["esper.json"])
    assert [variable["name"] for variable in tree["templating"]["list"]] == ["datasource", "run", "group", "env"]
    names = ["Rollbacks", "Fossilized", "Anomalies", "From events"]
    assert [query["name"] for query in tree["annotations"]["list"]] == names


def test_every_alert_has_severity_duration_and_description():
    (group,) = yaml.safe_load(files()["alerts.yaml"])["groups"]
    assert group == rules()["groups"][0]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert len(rule["annotations"]["description"]) > 30


@pytest.mark.parametrize("envs", [1, 16, 64, 512])
def test_the_number_of_series_is_bounded(envs):
    """Counts the series that depend on environments and slots; 500 are reserved for the others."""
    slots = ("r0c0", "r0c1", "r0c2")
    projection, state = MetricsProjection(slots, dict.fromkeys(ENTROPY_FLOORS, 4)), RunState()
    series = set()
    report = {"seed": "s", "blueprint": "norm", "stage": "HOLDING", "alpha": 1.0, "contribution_pp": 2.0}
    for env in range(envs):
        for record in (
            {"kind": "episode_started", "env": env, "val_loss": 1.0},
            {"kind": "env_epoch", "env": env, "slots": dict.fromkeys(slots, report), "val_loss": 1.0},
        ):
            event = complete(record)
            before, state = state, state.apply(event)
            series |= {(change.metric, change.labels) for change in projection.changes(before, event, state)}
    assert len(series) <= SERIES - 500
