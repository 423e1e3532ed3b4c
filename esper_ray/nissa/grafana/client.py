"""HTTP client that pushes dashboard, alert rules and annotations to a Grafana. A push is idempotent."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from esper_ray.leyline.errors import MissingExtraError, UserError, missing_extra
from esper_ray.leyline.process.credentials import without_credentials
from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.catalogue.shapes import Alert
from esper_ray.nissa.grafana.annotations import MARKED, Annotation
from esper_ray.nissa.grafana.dashboard import TITLE, UID, dashboard, run_tags
from esper_ray.nissa.runs.run_directory import Names

try:
    from grafana_client.api import GrafanaApi
    from grafana_client.client import (
        GrafanaClientError,
        GrafanaException,
        GrafanaTimeoutError,
        GrafanaUnauthorizedError,
    )
    from niquests.exceptions import RequestException
except ModuleNotFoundError as error:
    raise MissingExtraError(missing_extra("grafana-client", "grafana")) from error

INTERVAL_SECONDS = 60
ANNOTATION_LIMIT = 1_000_000
"""Most annotations of one request: the interface has no pages, and its default is a hundred."""
_NOT_FOUND, _FORBIDDEN = 404, 403


class GrafanaError(UserError):
    """A Grafana that cannot be reached, or refuses a request."""

    remedy = "Check the address and the rights of the token."


class Grafana:
    """Client of one Grafana."""

    def __init__(self, url: str, token: str) -> None:
        """
        Args:
            url: of its front page.
            token: of a service account that may edit dashboards, folders and alert rules.
        """
        self.url = without_credentials(url)
        self._api = GrafanaApi.from_url(url, credential=token, timeout=30.0)

    def push(self, datasource: str | None = None) -> list[str]:
        """Create or replace folder, dashboard and alert rules.

        Args:
            datasource: name of the Prometheus of the alerts; not needed if there is exactly one.

        Returns:
            Lines that describe what was done.

        Raises:
            GrafanaError: if it cannot be reached or refuses; the message says what to do.
        """
        with self._errors():
            source = self._datasource(datasource)
            created = self._folder()
            answer = self._api.dashboard.update_dashboard(
                {"dashboard": {**dashboard(), "id": None}, "folderUid": UID, "overwrite": True, "message": TITLE}
            )
            rules = [_rule(alert, source) for alert in ALERTS.values()]
            group = {"title": UID, "folderUid": UID, "interval": INTERVAL_SECONDS, "rules": rules}
            self._api.alertingprovisioning.update_rule_group(UID, UID, group)
        return [
            f"folder {TITLE}: {'created' if created else 'exists'}",
            f"dashboard {self.url.rstrip('/')}{answer['url']}",
            f"{len(rules)} alert rules on the data source {source}",
        ]

    def annotate(self, names: Names, marks: Sequence[Annotation]) -> str:
        """Synchronise a run's annotations with ``marks``: create missing ones, remove obsolete ones.

        They belong to the organisation and are found by their tags, so that they outlive the dashboard. Annotations of
        users and of other groups of the run stay.

        Returns:
            What was done.

        Raises:
            GrafanaError: as :meth:`push`.
        """
        tags = run_tags(names.run) + ([f"group:{names.group}"] if names.group else [])
        name = "/".join(filter(None, names))
        with self._errors():
            existing = self._api.annotations.find_annotations(
                tags=[quote(tag, safe="") for tag in tags], ann_type="annotation", limit=ANNOTATION_LIMIT
            )
            ours = {entry["id"]: mark for entry in existing if (mark := _annotation(entry, tags)).kind in MARKED}
            ids = {mark: number for number, mark in ours.items()}
            missing = [mark for mark in marks if mark not in ids]
            obsolete = ours.keys() - {ids[mark] for mark in marks if mark in ids}
            for mark in missing:
                self._api.annotations.add_annotation(
                    time_from=mark.start, time_to=mark.end, tags=[*tags, mark.kind], text=mark.text
                )
            for number in sorted(obsolete):
                self._api.annotations.delete_annotations_by_id(number)
        return f"annotations of {name}: {len(marks)} ({len(missing)} created, {len(obsolete)} removed)"

    def _folder(self) -> bool:
        """Create the folder unless it exists; whether it was created."""
        try:
            self._api.folder.get_folder(UID)
        except GrafanaClientError as error:
            if error.status_code != _NOT_FOUND:
                raise
            self._api.folder.create_folder(TITLE, UID)
            return True
        return False

    def _datasource(self, name: str | None) -> str:
        sources = [source for source in self._api.datasource.list_datasources() if source["type"] == "prometheus"]
        names = ", ".join(source["name"] for source in sources) or "none"
        matches = [source for source in sources if name in (None, source["name"])]
        if name is not None and not matches:
            raise GrafanaError(f"{self.url} has no Prometheus data source {name!r}; there are: {names}")
        if len(matches) != 1:
            raise GrafanaError(f"{self.url} has {len(matches)} Prometheus data sources ({names}); name one of them")
        return str(matches[0]["uid"])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of the client as :class:`GrafanaError`."""
        try:
            yield
        except GrafanaUnauthorizedError as error:
            raise GrafanaError(f"{self.url} refuses the token: {_message(error)}") from error
        except GrafanaTimeoutError as error:
            raise GrafanaError(f"{self.url} does not answer: {_message(error)}") from error
        except GrafanaException as error:
            hint = "the service account lacks a permission: " if error.status_code == _FORBIDDEN else ""
            raise GrafanaError(f"{self.url} answers {error.status_code}: {hint}{_message(error)}") from error
        except (RequestException, OSError, ValueError, KeyError) as error:
            raise GrafanaError(f"there is no Grafana at {self.url}: {error}") from error


def _annotation(entry: dict[str, Any], tags: Sequence[str]) -> Annotation:
    """An annotation from Grafana's answer. A point may have no end, and tags have no order."""
    kind = " ".join(tag for tag in entry["tags"] if tag not in tags)
    return Annotation(entry["time"], entry.get("timeEnd") or entry["time"], kind, entry["text"])


def _message(error: GrafanaException) -> str:
    return str(getattr(error, "message", error))


def _rule(alert: Alert, source: str) -> dict[str, Any]:
    """Alert rule of Grafana: it fires while the expression has results, whatever their value."""
    span = {"from": 600, "to": 0}
    query = {"refId": "A", "expr": alert.expression, "instant": True, "range": False}
    nonempty = {"refId": "B", "type": "math", "expression": "$A * 0 + 1"}
    threshold = {"evaluator": {"type": "gt", "params": [0]}}
    firing = {"refId": "C", "type": "threshold", "expression": "B", "conditions": [threshold]}
    return {
        "uid": f"{UID}-{alert.name.lower()}",
        "title": alert.name,
        "ruleGroup": UID,
        "folderUID": UID,
        "condition": "C",
        "for": alert.wait,
        "noDataState": "OK",
        "execErrState": "Error",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": f"{alert.name}: {{{{ $labels.run }}}}", "description": alert.about},
        "data": [
            {"refId": "A", "datasourceUid": source, "relativeTimeRange": span, "model": query},
            {"refId": "B", "datasourceUid": "__expr__", "relativeTimeRange": span, "model": nonempty},
            {"refId": "C", "datasourceUid": "__expr__", "relativeTimeRange": span, "model": firing},
        ],
    }
