"""What Grafana's own models (its foundation SDK, generated from its schemas) make of documents of ours."""

import json

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.alerting import Rule
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()  # options of each type of panel, queries of each data source

OF_DATA_SOURCES = {"definition", "step", "titleFormat", "textFormat"}
"""Fields of variables and annotations that the Prometheus data source reads. Grafana's schema leaves these open."""


def changed_in_dashboard(document):
    """Where a dashboard says what Grafana's models do not know, or understand in another way."""
    known = ("$.templating.list", "$.annotations.list")
    return [
        path
        for path in _changed(document, _again(Dashboard, document))
        if not (path.startswith(known) and path.rpartition(".")[2] in OF_DATA_SOURCES)
    ]


def changed_in_rule(document):
    """The same for an alert rule."""
    return list(_changed(document, _again(Rule, document)))


def _again(model, document):
    return json.loads(JSONEncoder().encode(model.from_json(document)))


def _changed(ours, theirs, path="$"):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if value is not None:  # which is how they leave out
                yield from _changed(value, theirs[key], f"{path}.{key}") if key in theirs else [f"{path}.{key}"]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _changed(one, other, f"{path}[{index}]")
    elif ours != theirs:
        yield path
