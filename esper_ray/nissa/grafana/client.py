"""Brings dashboard, alerts and marks of runs into a Grafana, by its HTTP interface; twice is the same as once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from grafana_client.api import GrafanaApi
from grafana_client.client import GrafanaClientError, GrafanaException, GrafanaTimeoutError, GrafanaUnauthorizedError
from niquests.exceptions import RequestException

from esper_ray.leyline.errors import UserError
from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.catalogue.shapes import Alert
from esper_ray.nissa.grafana.annotations import MARKED, Annotation
from esper_ray.nissa.grafana.dashboard import TITLE, UID, dashboard, run_tags
from esper_ray.nissa.runs.run_directory import Names

INTERVAL_SECONDS = 60
MOST_MARKS = 1_000_000
"""Asked for at once: Grafana's interface has no pages, and answers a hundred if no number is said."""
_NOT_FOUND, _FORBIDDEN = 404, 403


class GrafanaError(UserError):
    """A Grafana that cannot be reached, or does not let us."""

    remedy = "Check the address and the rights of the token."


class Grafana:
    """One Grafana, with what we may do there."""

    def __init__(self, url: str, token: str) -> None:
        """
        Args:
            url: of its front page.
            token: of a service account that may edit dashboards, folders and alert rules.
        """
        self.url = url
        self._api = GrafanaApi.from_url(url, credential=token, timeout=30.0)

    def push(self, datasource: str | None = None) -> list[str]:
        """Make or replace folder, dashboard and alert rules.

        Args:
            datasource: name of the Prometheus that alerts ask; without it there must be exactly one.

        Returns:
            What was done, line by line.

        Raises:
            GrafanaError: if it cannot be reached or refuses; the message says what to do.
        """
        with self._understood():
            source = self._datasource(datasource)
            made = self._folder()
            answer = self._api.dashboard.update_dashboard(
                {"dashboard": {**dashboard(), "id": None}, "folderUid": UID, "overwrite": True, "message": TITLE}
            )
            rules = [_rule(alert, source) for alert in ALERTS.values()]
            group = {"title": UID, "folderUid": UID, "interval": INTERVAL_SECONDS, "rules": rules}
            self._api.alertingprovisioning.update_rule_group(UID, UID, group)
        return [
            f"folder {TITLE}: {'made' if made else 'there already'}",
            f"dashboard {self.url.rstrip('/')}{answer['url']}",
            f"{len(rules)} alert rules, asking the data source {source}",
        ]

    def annotate(self, names: Names, marks: Sequence[Annotation]) -> str:
        """Make a run's annotations what ``marks`` says: what is missing is made, what is no longer so removed.

        They belong to the organisation and are found by their tags, so that they outlive the dashboard. What people
        have noted themselves, and what another group of the run has been through, stays.

        Returns:
            What was done.

        Raises:
            GrafanaError: as :meth:`push`.
        """
        tags = run_tags(names.run) + ([f"group:{names.group}"] if names.group else [])
        whose = "/".join(filter(None, names))
        with self._understood():
            found = self._api.annotations.find_annotations(
                tags=[quote(tag, safe="") for tag in tags], ann_type="annotation", limit=MOST_MARKS
            )
            ours = {one["id"]: mark for one in found if (mark := _as_there(one, tags)).kind in MARKED}
            there = {mark: number for number, mark in ours.items()}
            missing = [mark for mark in marks if mark not in there]
            obsolete = ours.keys() - {there[mark] for mark in marks if mark in there}
            for mark in missing:
                self._api.annotations.add_annotation(
                    time_from=mark.start, time_to=mark.end, tags=[*tags, mark.kind], text=mark.text
                )
            for number in sorted(obsolete):
                self._api.annotations.delete_annotations_by_id(number)
        return f"annotations of {whose}: {len(marks)} ({len(missing)} made, {len(obsolete)} removed)"

    def _folder(self) -> bool:
        """Make our folder, if it is not there."""
        try:
            self._api.folder.get_folder(UID)
        except GrafanaClientError as error:
            if error.status_code != _NOT_FOUND:
                raise
            self._api.folder.create_folder(TITLE, UID)
            return True
        return False

    def _datasource(self, name: str | None) -> str:
        found = [one for one in self._api.datasource.list_datasources() if one["type"] == "prometheus"]
        names = ", ".join(one["name"] for one in found) or "none"
        chosen = [one for one in found if name in (None, one["name"])]
        if name is not None and not chosen:
            raise GrafanaError(f"{self.url} has no Prometheus data source {name!r}; there are: {names}")
        if len(chosen) != 1:
            raise GrafanaError(f"{self.url} has {len(chosen)} Prometheus data sources ({names}); one must be chosen")
        return str(chosen[0]["uid"])

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Errors of the client in words."""
        try:
            yield
        except GrafanaUnauthorizedError as error:
            raise GrafanaError(f"{self.url} refuses the token: {_message(error)}") from error
        except GrafanaTimeoutError as error:
            raise GrafanaError(f"{self.url} does not answer: {_message(error)}") from error
        except GrafanaException as error:
            may = "the service account lacks a permission: " if error.status_code == _FORBIDDEN else ""
            raise GrafanaError(f"{self.url} answers {error.status_code}: {may}{_message(error)}") from error
        except (RequestException, OSError, ValueError, KeyError) as error:
            raise GrafanaError(f"there is no Grafana at {self.url}: {error}") from error


def _as_there(one: dict[str, Any], tags: Sequence[str]) -> Annotation:
    """An annotation as Grafana tells of it; a point may have no end, and tags have no order."""
    kind = " ".join(tag for tag in one["tags"] if tag not in tags)
    return Annotation(one["time"], one.get("timeEnd") or one["time"], kind, one["text"])


def _message(error: GrafanaException) -> str:
    return str(getattr(error, "message", error))


def _rule(alert: Alert, source: str) -> dict[str, Any]:
    """An alert as Grafana has it: its expression has results only while something is wrong, whatever their value."""
    when = {"from": 600, "to": 0}
    ask = {"refId": "A", "expr": alert.expression, "instant": True, "range": False}
    there = {"refId": "B", "type": "math", "expression": "$A * 0 + 1"}
    threshold = {"evaluator": {"type": "gt", "params": [0]}}
    rings = {"refId": "C", "type": "threshold", "expression": "B", "conditions": [threshold]}
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
            {"refId": "A", "datasourceUid": source, "relativeTimeRange": when, "model": ask},
            {"refId": "B", "datasourceUid": "__expr__", "relativeTimeRange": when, "model": there},
            {"refId": "C", "datasourceUid": "__expr__", "relativeTimeRange": when, "model": rings},
        ],
    }
