"""Differences between our documents and what Grafana's foundation SDK reads from them."""

import json

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.alerting import Rule
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()  # options of each type of panel, queries of each data source

OF_DATA_SOURCES = {"definition", "step", "titleFormat", "textFormat"}
"""Fields of variables and annotations that the Prometheus data source reads. Grafana's schema leaves these open."""


def changed_in_dashboard(document):
    """Paths in a dashboard that Grafana's models drop or change."""
    open_lists = ("$.templating.list", "$.annotations.list")
    return [
        path
        for path in _changed(document, _again(Dashboard, document))
        if not (path.startswith(open_lists) and path.rpartition(".")[2] in OF_DATA_SOURCES)
    ]


def changed_in_rule(document):
    """Paths in an alert rule that Grafana's models drop or change."""
    return list(_changed(document, _again(Rule, document)))


def _again(model, document):
    return json.loads(JSONEncoder().encode(model.from_json(document)))


def _changed(ours, theirs, path="$"):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if value is not None:  # the models leave out null
                yield from _changed(value, theirs[key], f"{path}.{key}") if key in theirs else [f"{path}.{key}"]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (own, read) in enumerate(zip(ours, theirs, strict=True)):
            yield from _changed(own, read, f"{path}[{index}]")
    elif ours != theirs:
        yield path
