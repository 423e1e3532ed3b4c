"""Grafana client: dashboard, alert rules and annotations, pushed once and repeatedly."""

import copy
import importlib
import sys
from pathlib import Path

import pytest
from grafana_builders import TOKEN, FakeGrafana, running

from esper_ray.leyline.errors import MissingExtraError
from esper_ray.nissa import grafana
from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.grafana.annotations import Annotation
from esper_ray.nissa.grafana.client import Grafana, GrafanaError
from esper_ray.nissa.grafana.dashboard import dashboard
from esper_ray.nissa.runs.run_directory import Names

pytestmark = pytest.mark.integration

PROMETHEUS = {"name": "Prometheus", "type": "prometheus", "uid": "p1"}
OTHER = {"name": "Other", "type": "prometheus", "uid": "p2"}
LOKI = {"name": "Loki", "type": "loki", "uid": "l1"}
ANNOTATIONS = [
    Annotation(1000, 1000, "fossilised", "fossilized in round 0 (1): env 0, r0c0: norm"),
    Annotation(1000, 3000, "anomaly", "anomaly from round 0: nan_loss"),
]


def test_a_second_push_leaves_folder_dashboard_and_rules_unchanged():
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


def test_a_rule_fires_while_its_expression_has_a_result():
    fake = FakeGrafana([PROMETHEUS])
    with running(fake) as url:
        Grafana(url, TOKEN).push()
    rules = {rule["title"]: rule for rule in fake.groups["esper", "esper"]["rules"]}
    assert set(rules) == set(ALERTS)
    rule = rules["HeadCollapsed"]
    query, constant, condition = (step["model"] for step in rule["data"])
    assert query["expr"] == ALERTS["HeadCollapsed"].expression
    assert rule["data"][0]["datasourceUid"] == "p1"
    assert (constant["expression"], condition["expression"]) == ("$A * 0 + 1", "B")
    assert condition["conditions"][0]["evaluator"] == {"type": "gt", "params": [0]}
    assert (rule["for"], rule["noDataState"], rule["labels"]) == ("10m", "OK", {"severity": "ticket"})


@pytest.mark.parametrize(
    ("sources", "name", "message"),
    [
        ([LOKI], None, r"has 0 Prometheus data sources \(none\)"),
        ([PROMETHEUS, OTHER], None, r"has 2 Prometheus data sources \(Prometheus, Other\); name one of them"),
        ([PROMETHEUS], "Mimir", "has no Prometheus data source 'Mimir'; there are: Prometheus"),
    ],
)
def test_an_ambiguous_or_missing_data_source_is_refused_before_any_change(sources, name, message):
    fake = FakeGrafana(sources)
    with running(fake) as url, pytest.raises(GrafanaError, match=message):
        Grafana(url, TOKEN).push(name)
    assert {method for method, _ in fake.requests} == {"GET"}


def test_a_data_source_is_selected_by_name():
    with running(FakeGrafana([PROMETHEUS, OTHER])) as url:
        assert Grafana(url, TOKEN).push("Other")[2].endswith("p2")


def test_a_wrong_token_is_refused_with_the_address():
    with (
        running(FakeGrafana([PROMETHEUS])) as url,
        pytest.raises(GrafanaError, match=f"{url} refuses the token"),
    ):
        Grafana(url, "wrong").push()


def test_a_service_account_without_edit_permission_is_refused():
    fake = FakeGrafana([PROMETHEUS])
    fake.forbidden = True
    with running(fake) as url, pytest.raises(GrafanaError, match="permission"):
        Grafana(url, TOKEN).push()


def test_an_unreachable_address_is_refused_with_the_address():
    with running(FakeGrafana([])) as url:
        pass
    with pytest.raises(GrafanaError, match=f"{url}"):
        Grafana(url, TOKEN).push()


def stored(fake):
    """Stored annotations by number."""
    return {number: (a["time"], a["timeEnd"], a["text"], a["tags"]) for number, a in fake.annotations.items()}


def test_a_second_push_of_the_same_annotations_changes_nothing():
    fake = FakeGrafana([])
    with running(fake) as url:
        first = Grafana(url, TOKEN).annotate(Names("r1"), ANNOTATIONS)
        changes = len(fake.requests)
        second = Grafana(url, TOKEN).annotate(Names("r1"), ANNOTATIONS)
    assert stored(fake) == {
        1: (1000, 1000, ANNOTATIONS[0].text, ["esper", "fossilised", "run:r1"]),
        2: (1000, 3000, ANNOTATIONS[1].text, ["anomaly", "esper", "run:r1"]),
    }
    assert first == "annotations of r1: 2 (2 created, 0 removed)"
    assert second == "annotations of r1: 2 (0 created, 0 removed)"
    assert [method for method, _ in fake.requests[changes:]] == ["GET"]


def test_outdated_annotations_are_removed_and_foreign_ones_stay():
    fake = FakeGrafana([])
    longer = ANNOTATIONS[1]._replace(end=5000)
    with running(fake) as url:
        grafana = Grafana(url, TOKEN)
        grafana.annotate(Names("r1"), ANNOTATIONS)
        grafana.annotate(Names("r2"), ANNOTATIONS)
        note = {"time": 1000, "timeEnd": 1000, "text": "new driver", "tags": ["esper", "run:r1", "note"]}
        fake.answer("POST", "/api/annotations", f"Bearer {TOKEN}", note)
        summary = grafana.annotate(Names("r1"), [ANNOTATIONS[0], longer])
    assert summary == "annotations of r1: 2 (1 created, 1 removed)"
    left = sorted((a["time"], a["timeEnd"], *a["tags"]) for a in fake.annotations.values())
    assert left == [
        (1000, 1000, "esper", "fossilised", "run:r1"),
        (1000, 1000, "esper", "fossilised", "run:r2"),
        (1000, 1000, "esper", "note", "run:r1"),
        (1000, 3000, "anomaly", "esper", "run:r2"),
        (1000, 5000, "anomaly", "esper", "run:r1"),
    ]


def test_groups_of_one_run_keep_separate_annotations():
    fake = FakeGrafana([])
    with running(fake) as url:
        grafana = Grafana(url, TOKEN)
        for group in ("A", "B", ""):
            assert grafana.annotate(Names("ab", group), ANNOTATIONS).endswith("2 created, 0 removed)")
        assert grafana.annotate(Names("ab", "A"), []) == "annotations of ab/A: 0 (0 created, 2 removed)"
    assert sorted(a["tags"][1:-1] for a in fake.annotations.values() if a["time"] == a["timeEnd"]) == [
        ["fossilised"],
        ["fossilised", "group:B"],
    ]


@pytest.mark.parametrize("name", ["a b", "a&tags=x", "50%+#1", "grün", "run:x"])
def test_annotations_of_a_run_with_special_characters_are_found_again(name):
    fake = FakeGrafana([])
    with running(fake) as url:
        grafana = Grafana(url, TOKEN)
        grafana.annotate(Names(name), ANNOTATIONS)
        assert grafana.annotate(Names(name), ANNOTATIONS).endswith("0 created, 0 removed)")


def test_more_than_a_hundred_annotations_are_found_again():
    fake = FakeGrafana([])
    many = [Annotation(time, time, "rollback", "x") for time in range(1, 131)]
    with running(fake) as url:
        grafana = Grafana(url, TOKEN)
        assert grafana.annotate(Names("r1"), many) == "annotations of r1: 130 (130 created, 0 removed)"
        assert grafana.annotate(Names("r1"), many) == "annotations of r1: 130 (0 created, 0 removed)"


def test_the_dashboard_queries_annotations_of_the_selected_run():
    (target,) = [query["target"] for query in dashboard()["annotations"]["list"] if "target" in query]
    assert target["tags"] == ["esper", "run:$run"]
    assert (target["type"], target["matchAny"]) == ("tags", False)


def test_without_its_package_the_client_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grafana_client.api", None)
    monkeypatch.delitem(sys.modules, "esper_ray.nissa.grafana.client")
    with pytest.raises(MissingExtraError, match=r"grafana-client is not installed.*'esper-ray\[grafana\]'") as raised:
        importlib.import_module("esper_ray.nissa.grafana.client")
    assert raised.value.exit_code == 2


def test_only_the_client_imports_the_package_of_the_extra():
    """So that everything else works without it."""
    root = Path(grafana.__file__).parents[2]
    users = [path.name for path in root.rglob("*.py") if "grafana_client" in path.read_text()]
    assert users == ["client.py"]


def test_lines_about_a_grafana_show_no_credentials_of_its_address():
    fake = FakeGrafana([PROMETHEUS])
    with running(fake) as url:
        assert Grafana(url.replace("http://", "http://admin:word@"), TOKEN).url == url
