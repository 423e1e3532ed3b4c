"""Reference pages that are generated from the catalogue."""

from collections import Counter
from pathlib import Path

import pytest

from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.catalogue.pages import pages

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "docs" / "pages" / "reference"


@pytest.mark.parametrize("name", pages())
def test_the_page_is_up_to_date(name):
    assert (REFERENCE / name).read_text().rstrip() == pages()[name].rstrip(), "run `make pages`"


def test_every_metric_is_on_its_page():
    content = pages()["metrics.md"]
    for metric in METRICS.values():
        assert f"| `{metric.exported}` | {metric.type} |" in content
        assert metric.about in content


def test_every_kind_and_field_is_on_its_page():
    content = pages()["events.md"]
    for kind in KINDS.values():
        assert f"## {kind.name}\n" in content
        for field in kind.fields:
            assert f"| `{field.name}` | {field.type}" in content
            assert field.about in content


@pytest.mark.parametrize("page", ["dashboards/README.md", "docs/pages/guides/watch.md"])
def test_a_page_states_the_number_of_alert_rules_of_each_severity(page):
    count = Counter(alert.severity for alert in ALERTS.values())
    severities = f"{count['page']} that page, {count['ticket']} that open a ticket"
    assert f"{count.total()} alert rules for Prometheus: {severities}" in (ROOT / page).read_text()
