"""Dashboard and rules against the models of Grafana's own SDK."""

import pytest
from grafana_schema import changed_in_dashboard, changed_in_rule

from esper_ray.nissa.grafana.dashboard import dashboard


def test_every_field_of_the_dashboard_is_in_grafanas_schema():
    assert changed_in_dashboard(dashboard()) == []


@pytest.mark.parametrize(
    ("panel_type", "path", "field"),
    [
        ("timeseries", ("fieldConfig", "defaults", "custom"), "lineWeight"),
        ("timeseries", ("fieldConfig", "defaults"), "units"),
        ("stat", ("options",), "colourMode"),
        ("stat", ("targets", 0), "expression"),
    ],
)
def test_an_unknown_field_of_the_dashboard_is_found(panel_type, path, field):
    board = dashboard()
    index = next(i for i, panel in enumerate(board["panels"]) if panel["type"] == panel_type)
    part = board["panels"][index]
    for step in path:
        part = part[step]
    part[field] = 1
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    assert changed_in_dashboard(board) == [f"$.panels[{index}]{name}.{field}"]


def test_an_unknown_field_of_a_rule_is_found():
    rule = {
        "title": "NoLearning",
        "for": "10m",
        "data": [{"refId": "A", "datasourceUid": "p1", "relativeTimeRange": {"from": 600, "to": 0}}],
    }
    assert changed_in_rule(rule) == []
    assert changed_in_rule(rule | {"severity": "page"}) == ["$.severity"]
