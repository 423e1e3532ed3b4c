"""The dashboard as Grafana's own models read it."""

import pytest
from grafana_schema import changed_in_dashboard, changed_in_rule

from esper_ray.nissa.grafana.dashboard import dashboard


def test_grafana_knows_every_field_of_the_dashboard():
    assert changed_in_dashboard(dashboard()) == []


@pytest.mark.parametrize(
    ("type_of_panel", "where", "field"),
    [
        ("timeseries", ("fieldConfig", "defaults", "custom"), "lineWeight"),
        ("timeseries", ("fieldConfig", "defaults"), "units"),
        ("stat", ("options",), "colourMode"),
        ("stat", ("targets", 0), "expression"),
    ],
)
def test_a_field_that_grafana_does_not_have_is_found(type_of_panel, where, field):
    board = dashboard()
    index = next(i for i, panel in enumerate(board["panels"]) if panel["type"] == type_of_panel)
    part = board["panels"][index]
    for step in where:
        part = part[step]
    part[field] = 1
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
    assert changed_in_dashboard(board) == [f"$.panels[{index}]{path}.{field}"]


def test_a_rule_may_have_no_other_fields():
    rule = {
        "title": "NoLearning",
        "for": "10m",
        "data": [{"refId": "A", "datasourceUid": "p1", "relativeTimeRange": {"from": 600, "to": 0}}],
    }
    assert changed_in_rule(rule) == []
    assert changed_in_rule(rule | {"severity": "page"}) == ["$.severity"]
