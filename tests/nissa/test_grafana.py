"""Dashboard and alerts in a Grafana, twice."""

import copy

import pytest
from grafana_builders import TOKEN, FakeGrafana, running

from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.dashboard import dashboard
from esper_ray.nissa.grafana import Grafana, GrafanaError

PROMETHEUS = {"name": "Prometheus", "type": "prometheus", "uid": "p1"}
OTHER = {"name": "Other", "type": "prometheus", "uid": "p2"}
LOKI = {"name": "Loki", "type": "loki", "uid": "l1"}


def test_folder_dashboard_and_alerts_are_there_and_a_second_time_the_same():
    fake = FakeGrafana([PROMETHEUS, LOKI])
    with running(fake) as url:
        first = Grafana(url, TOKEN).push()
        state = copy.deepcopy((fake.folders, fake.dashboards, fake.groups))
        second = Grafana(f"{url}/", TOKEN).push()
    assert (fake.folders, fake.dashboards, fake.groups) == state
    assert first == [
        "folder esper-ray: made",
        f"dashboard {url}/d/esper/esper-ray",
        f"{len(ALERTS)} alert rules, asking the data source p1",
    ]
    assert second[0] == "folder esper-ray: there already"
    assert fake.folders == {"esper": {"uid": "esper", "title": "esper-ray"}}
    assert fake.dashboards["esper"]["dashboard"]["panels"] == dashboard()["panels"]


def test_a_rule_rings_while_its_expression_has_a_result():
    fake = FakeGrafana([PROMETHEUS])
    with running(fake) as url:
        Grafana(url, TOKEN).push()
    rules = {rule["title"]: rule for rule in fake.groups["esper", "esper"]["rules"]}
    assert set(rules) == set(ALERTS)
    rule = rules["HeadCollapsed"]
    ask, there, rings = (query["model"] for query in rule["data"])
    assert ask["expr"] == ALERTS["HeadCollapsed"].expression
    assert rule["data"][0]["datasourceUid"] == "p1"
    assert (there["expression"], rings["expression"]) == ("$A * 0 + 1", "B")
    assert rings["conditions"][0]["evaluator"] == {"type": "gt", "params": [0]}
    assert (rule["for"], rule["noDataState"], rule["labels"]) == ("10m", "OK", {"severity": "ticket"})


@pytest.mark.parametrize(
    ("sources", "name", "message"),
    [
        ([LOKI], None, r"has 0 Prometheus data sources \(none\)"),
        ([PROMETHEUS, OTHER], None, r"has 2 Prometheus data sources \(Prometheus, Other\); one must be chosen"),
        ([PROMETHEUS], "Mimir", "has no Prometheus data source 'Mimir'; there are: Prometheus"),
    ],
)
def test_which_prometheus_must_be_clear(sources, name, message):
    fake = FakeGrafana(sources)
    with running(fake) as url, pytest.raises(GrafanaError, match=message):
        Grafana(url, TOKEN).push(name)
    assert {method for method, _ in fake.requests} == {"GET"}


def test_of_several_one_is_chosen_by_name():
    with running(FakeGrafana([PROMETHEUS, OTHER])) as url:
        assert Grafana(url, TOKEN).push("Other")[2].endswith("p2")


def test_a_wrong_token_is_refused_with_the_address():
    with (
        running(FakeGrafana([PROMETHEUS])) as url,
        pytest.raises(GrafanaError, match=f"{url} refuses the token"),
    ):
        Grafana(url, "wrong").push()


def test_a_service_account_that_may_not_edit_is_told_so():
    fake = FakeGrafana([PROMETHEUS])
    fake.forbidden = True
    with running(fake) as url, pytest.raises(GrafanaError, match="permission"):
        Grafana(url, TOKEN).push()


def test_nobody_at_the_address_is_said():
    with running(FakeGrafana([])) as url:
        pass
    with pytest.raises(GrafanaError, match=f"{url}"):
        Grafana(url, TOKEN).push()
