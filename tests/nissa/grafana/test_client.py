"""Dashboard and alerts in a Grafana, twice."""

import copy

import pytest
from grafana_builders import TOKEN, FakeGrafana, running

from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.grafana.annotations import Annotation
from esper_ray.nissa.grafana.client import Grafana, GrafanaError
from esper_ray.nissa.grafana.dashboard import dashboard
from esper_ray.nissa.runs.run_directory import Names

pytestmark = pytest.mark.integration

PROMETHEUS = {"name": "Prometheus", "type": "prometheus", "uid": "p1"}
OTHER = {"name": "Other", "type": "prometheus", "uid": "p2"}
LOKI = {"name": "Loki", "type": "loki", "uid": "l1"}
MARKS = [
    Annotation(1000, 1000, "fossilised", "fossilised in round 0 (1): env 0, r0c0: norm"),
    Annotation(1000, 3000, "anomaly", "anomaly from round 0: nan_loss"),
]


def test_folder_dashboard_and_alerts_are_there_and_a_second_time_the_same():
    fake = FakeGrafana([PROMETHEUS, LOKI])
    with running(fake) as url:
        first = Grafana(url, TOKEN).push()
        state = copy.deepcopy((fake.folders, fake.dashboards, fake.groups))
        second = Grafana(f"{url}/", TOKEN).push()
    assert (fake.folders, fake.dashboards, fake.groups) == state
    assert first == [
        "folder esper-ray: created",
        f"dashboard {url}/d/esper/esper-ray",
        f"{len(ALERTS)} alert rules on the data source p1",
    ]
    assert second[0] == "folder esper-ray: exists"
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
        ([PROMETHEUS, OTHER], None, r"has 2 Prometheus data sources \(Prometheus, Other\); name one of them"),
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


def stored(fake):
    """Annotations as they are in a Grafana, by their number."""
    return {number: (one["time"], one["timeEnd"], one["text"], one["tags"]) for number, one in fake.annotations.items()}


def test_marks_become_annotations_and_a_second_time_nothing_is_asked_for():
    fake = FakeGrafana([])
    with running(fake) as url:
        first = Grafana(url, TOKEN).annotate(Names("r1"), MARKS)
        changes = len(fake.requests)
        second = Grafana(url, TOKEN).annotate(Names("r1"), MARKS)
    assert stored(fake) == {
        1: (1000, 1000, MARKS[0].text, ["esper", "fossilised", "run:r1"]),
        2: (1000, 3000, MARKS[1].text, ["anomaly", "esper", "run:r1"]),
    }
    assert first == "annotations of r1: 2 (2 created, 0 removed)"
    assert second == "annotations of r1: 2 (0 created, 0 removed)"
    assert [method for method, _ in fake.requests[changes:]] == ["GET"]


def test_what_is_no_longer_so_goes_and_what_is_not_ours_stays():
    fake = FakeGrafana([])
    longer = MARKS[1]._replace(end=5000)
    with running(fake) as url:
        grafana = Grafana(url, TOKEN)
        grafana.annotate(Names("r1"), MARKS)
        grafana.annotate(Names("r2"), MARKS)
        note = {"time": 1000, "timeEnd": 1000, "text": "new driver", "tags": ["esper", "run:r1", "note"]}
        fake.answer("POST", "/api/annotations", f"Bearer {TOKEN}", note)
        said = grafana.annotate(Names("r1"), [MARKS[0], longer])
    assert said == "annotations of r1: 2 (1 created, 1 removed)"
    left = sorted((one["time"], one["timeEnd"], *one["tags"]) for one in fake.annotations.values())
    assert left == [
        (1000, 1000, "esper", "fossilised", "run:r1"),
        (1000, 1000, "esper", "fossilised", "run:r2"),
        (1000, 1000, "esper", "note", "run:r1"),
        (1000, 3000, "anomaly", "esper", "run:r2"),
        (1000, 5000, "anomaly", "esper", "run:r1"),
    ]


def test_groups_of_one_run_do_not_take_each_others_annotations():
    fake = FakeGrafana([])
    with running(fake) as url:
        grafana = Grafana(url, TOKEN)
        for group in ("A", "B", ""):
            assert grafana.annotate(Names("ab", group), MARKS).endswith("2 created, 0 removed)")
        assert grafana.annotate(Names("ab", "A"), []) == "annotations of ab/A: 0 (0 created, 2 removed)"
    assert sorted(one["tags"][1:-1] for one in fake.annotations.values() if one["time"] == one["timeEnd"]) == [
        ["fossilised"],
        ["fossilised", "group:B"],
    ]


@pytest.mark.parametrize("name", ["a b", "a&tags=x", "50%+#1", "grün", "run:x"])
def test_any_name_of_a_run_finds_its_own(name):
    fake = FakeGrafana([])
    with running(fake) as url:
        grafana = Grafana(url, TOKEN)
        grafana.annotate(Names(name), MARKS)
        assert grafana.annotate(Names(name), MARKS).endswith("0 created, 0 removed)")


def test_more_than_a_hundred_are_found_again():
    fake = FakeGrafana([])
    many = [Annotation(time, time, "rollback", "x") for time in range(1, 131)]
    with running(fake) as url:
        grafana = Grafana(url, TOKEN)
        assert grafana.annotate(Names("r1"), many) == "annotations of r1: 130 (130 created, 0 removed)"
        assert grafana.annotate(Names("r1"), many) == "annotations of r1: 130 (0 created, 0 removed)"


def test_the_dashboard_asks_for_the_annotations_of_the_run_that_is_chosen():
    (asked,) = [one["target"] for one in dashboard()["annotations"]["list"] if "target" in one]
    assert asked["tags"] == ["esper", "run:$run"]
    assert (asked["type"], asked["matchAny"]) == ("tags", False)
