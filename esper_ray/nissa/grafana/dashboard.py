"""Dashboard for Grafana and alert rules for Prometheus, generated from the catalogue."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.catalogue.panels import ANNOTATIONS, ROWS
from esper_ray.nissa.catalogue.shapes import Panel

UID, TITLE = "esper", "esper-ray"
WIDTH, HEIGHT = 24, 8
RAY_METRICS = frozenset(
    {
        "ray_node_gram_used",
        "ray_node_gram_available",
        "ray_node_gpus_utilization",
        "ray_node_cpu_utilization",
        "ray_actors",
    }
)
"""Metrics of Ray that the dashboard uses."""
_SUFFIXES = re.compile(r"_(bucket|count|sum)$")


def dashboard() -> dict[str, Any]:
    """Content of ``dashboards/esper.json``."""
    return {
        "uid": UID,
        "title": TITLE,
        "tags": ["esper-ray"],
        "timezone": "browser",
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": [*(_annotation(*entry) for entry in ANNOTATIONS), _pushed()]},
        "panels": list(_panels()),
    }


def _variables() -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    ]
    info, accuracy = METRICS["esper_run_info"].exported, METRICS["esper_env_accuracy_ratio"].exported
    chosen = f'{info}{{run="$run"}}'
    queries = {
        "run": ("Run", f"label_values({info}, run)", False),
        "group": ("Group", f"label_values({chosen}, group)", True),
        "env": ("Environment", f'label_values({accuracy}{{run="$run"}}, env)', True),
    }
    for name, (label, query, several) in queries.items():
        variable = {"name": name, "label": label, "type": "query", "refresh": 2, "sort": 2 if name == "run" else 3}
        variable |= {"datasource": _source(), "query": {"query": query, "refId": name}, "definition": query}
        variable |= {"multi": several, "includeAll": several} | ({"allValue": ".*"} if several else {})
        if several:
            variable["current"] = {"text": "All", "value": "$__all"}
        variables.append(variable)
    return variables


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for row in ROWS:
        number += 1
        place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + HEIGHT
            number += 1
            yield _panel(panel, number, {"h": HEIGHT, "w": panel.width, "x": x, "y": y})
            x += panel.width
        y += HEIGHT


def _panel(panel: Panel, number: int, place: Mapping[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(65 + i), "datasource": _source(), "expr": query.expression, "legendFormat": query.legend}
        for i, query in enumerate(panel.queries)
    ]
    defaults: dict[str, Any] = {"unit": panel.unit, "color": {"mode": "palette-classic"}}
    if panel.steps:
        steps = [{"value": value, "color": colour} for value, colour in panel.steps]
        defaults |= {"thresholds": {"mode": "absolute", "steps": steps}, "color": {"mode": "thresholds"}}
    if panel.unit == "percentunit" and not panel.stacked:
        defaults["max"] = 1
    options: dict[str, Any] = {}
    if panel.type == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none"}
        defaults["custom"] = {"fillOpacity": 40 if panel.stacked else 0, "stacking": stacking, "spanNulls": False}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    elif panel.type in ("stat", "bargauge"):
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"}
        if panel.type == "bargauge":
            options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal"}
    return {
        "id": number,
        "type": panel.type,
        "title": panel.title,
        "description": panel.about,
        "datasource": _source(),
        "gridPos": dict(place),
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def _annotation(title: str, query: str, text: str, colour: str) -> dict[str, Any]:
    return {
        "name": title,
        "datasource": _source(),
        "enable": True,
        "expr": query,
        "titleFormat": title,
        "textFormat": text,
        "iconColor": colour,
        "step": "60s",
    }


def _pushed() -> dict[str, Any]:
    """Query for the annotations of ``esper dashboards push --run``, by their tags."""
    target = {"type": "tags", "tags": run_tags("$run"), "matchAny": False, "limit": 1000}
    source = {"type": "grafana", "uid": "-- Grafana --"}
    return {"name": "From events", "datasource": source, "enable": True, "iconColor": "blue", "target": target}


def run_tags(run: str) -> list[str]:
    """Tags of every annotation of a run."""
    return [UID, f"run:{run}"]


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def rules() -> dict[str, Any]:
    """Content of ``dashboards/alerts.yaml``."""
    entries = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.wait,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": f"{alert.name}: {{{{ $labels.run }}}}", "description": alert.about},
        }
        for alert in ALERTS.values()
    ]
    return {"groups": [{"name": "esper", "interval": "10s", "rules": entries}]}


def files() -> Mapping[str, str]:
    """Content of every file by file name."""
    head = "# Alert rules for Prometheus, generated from the catalogue of alerts by `esper dashboards render`.\n"
    return {
        "esper.json": json.dumps(dashboard(), indent=1) + "\n",
        "alerts.yaml": head + yaml.safe_dump(rules(), sort_keys=False, width=1000),
    }


def expressions(run: str = "run") -> Iterator[tuple[str, str]]:
    """Owner and text of every query of dashboard and alerts, with values for the variables."""
    for row in ROWS:
        for panel in row.panels:
            for query in panel.queries:
                yield f"panel {panel.title!r}", filled(query.expression, run)
    for title, expression, _, _ in ANNOTATIONS:
        yield f"annotation {title!r}", filled(expression, run)
    for alert in ALERTS.values():
        yield f"alert {alert.name}", alert.expression


def filled(
    expression: str, run: str = "run", group: str = ".*", env: str = ".*", interval: str = "1m", span: str = "1h"
) -> str:
    """``expression`` with values for the variables of Grafana.

    Args:
        group: regular expression, like ``env``.
        interval: window of rates, as a Prometheus duration.
        span: visible time range.
    """
    values = {"$__rate_interval": interval, "$__range": span, "$run": run, "$group": group, "$env": env}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def unknown_metrics(expression: str) -> list[str]:
    """Metrics in ``expression`` that are neither in the catalogue nor in ``RAY_METRICS``."""
    names = re.findall(r"\bray_\w+", expression)
    existing = RAY_METRICS | {metric.exported for metric in METRICS.values()}
    return sorted({name for name in names if name not in existing and _SUFFIXES.sub("", name) not in existing})
