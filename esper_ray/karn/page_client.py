"""Runs that an Overwatch serves, followed through its interface.

The state of a run is fetched once. Afterwards only new items are, and they are folded here.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import esper_ray
from esper_ray.karn.following import ENDED, EventCollector
from esper_ray.karn.places import FolderKind, RunLine
from esper_ray.karn.run_folders import RunFolder, ShownRun
from esper_ray.leyline.errors import UserError, shortened
from esper_ray.nissa.state.answers import Sight
from esper_ray.nissa.state.codec import StateError, state_from_json
from esper_ray.nissa.state.run_state import RunState

TIMEOUT_SECONDS = 10.0
REFRESH_SECONDS = 1.0
"""Seconds between two requests while the server does not answer, or reads the log."""
WAIT_SECONDS = 1
"""Time for which the server waits for a change before it answers; the next request follows at once."""
MOST_BYTES = 2**28
"""Greatest answer that is read."""
_TOKEN = "ESPER_OVERWATCH_TOKEN"
_VERSION, _PROGRAM = "x-esper-version", esper_ray.__version__
UNEXPECTED = "the answer is not as this program expects"
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
_PLACE = re.compile(r"(?P<root>.*?)/runs/(?P<run>[^/]+)(/.*)?")


class PageClientError(UserError):
    """A server of Overwatch that does not answer as this program expects."""

    remedy = "Check the address and that the server runs; ESPER_OVERWATCH_TOKEN holds its token."


class PageClient:
    """Client of one server."""

    def __init__(self, address: str, token: str | None) -> None:
        """
        Args:
            address: of the server, with the prefix of its paths.
        """
        self.address, self._token = address.rstrip("/"), token

    def get(self, path: str) -> dict[str, Any]:
        """The answer to ``/api/v1<path>``.

        Raises:
            PageClientError: if there is none, or the server refuses the request or is of another version.
        """
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(f"{self.address}/api/v1{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                version, content = answer.headers.get(_VERSION), answer.read(MOST_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                raise PageClientError(f"{self.address}: {_reason(error)}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            reason = getattr(reason, "strerror", None) or reason
            raise PageClientError(f"{self.address} does not answer: {reason}") from None
        if version != _PROGRAM:
            raise PageClientError(
                f"{self.address} is of version {version or 'unknown'}, this program of {_PROGRAM}; "
                "a program of that version shows it"
            )
        try:
            tree = json.loads(content)
            return dict(tree)
        except (ValueError, TypeError):
            raise PageClientError(f"{self.address}: {UNEXPECTED}") from None


def _reason(error: urllib.error.HTTPError) -> str:
    """What a server has refused, and why."""
    try:
        tree = json.loads(error.read(MOST_BYTES))
        near = f"; did you mean {tree['nearest']}?" if tree.get("nearest") else ""
        return f"{tree['error']}{near}"
    except _MALFORMED:
        return f"{error.code} {error.reason}"


class ServedRun:
    """A run that a server follows."""

    note = ""

    def __init__(self, client: PageClient, name: str, collector: EventCollector) -> None:
        """
        Raises:
            PageClientError: if the server does not show it.
        """
        self.name = self.place = name
        self._client, self._collector = client, collector
        self._item: int | None = None
        self._version = 0
        self.refresh_s = REFRESH_SECONDS
        self.state, self.sight = RunState(), Sight(None)
        self.manifest: Mapping[str, Any] = {}
        self.choices: Mapping[str, int] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.live_is_full = False
        self._failure = ""
        self.refresh()

    def refresh(self) -> None:
        """Fetch and fold the items that come within a second.

        Where some are gone, the whole state is fetched.
        """
        known, self.refresh_s = self._item, REFRESH_SECONDS
        query = "" if known is None else f"?since={known}&version={self._version}&wait={WAIT_SECONDS}"
        tree = self._client.get(f"/runs/{quote(self.name, safe='~')}/view{query}")
        try:
            self._take(tree)
        except StateError as error:
            raise PageClientError(f"{self._client.address}: {error}") from None
        except _MALFORMED as error:
            self._item = None
            raise PageClientError(f"{self._client.address}: {UNEXPECTED}: {error!r:.100}") from None

    def _take(self, tree: Mapping[str, Any]) -> None:
        self._failure, self.place = str(tree["failure"] or ""), str(tree["path"])
        self.manifest, self.choices = dict(tree["manifest"]), dict(tree["choices"])
        self.problems, self.notes = list(map(str, tree["problems"])), list(map(str, tree["notes"]))
        self.live_is_full = bool(tree["live_is_full"])
        pulse = tree["pulse"]
        self.sight = Sight(pulse, float(tree["beat_age_s"]), float(tree["moved_age_s"])) if pulse else Sight(None)
        if "state" in tree:
            self.state = state_from_json(json.loads(tree["state"]))
            self._collector.clear()
            self._collect(tree["records"])
        else:
            self._fold(tree["items"])
            self._collect(tree["items"])
            for row in tree["timings"]:
                if not self.state.timings or self.state.timings[-1] != row:
                    self.state = self.state.with_timing(row)
        status = self.manifest.get("status")
        if status in ENDED and self.state.status != status:
            self.state = self.state.with_status(status)
        totals = self.state.totals
        known = [sum(totals.events.values()), sum(totals.faults.values())]
        complete = not tree["reading"] and tree["totals"] == known
        self._item = int(tree["item"]) if complete else None  # not everything came as an item: the next answer is whole
        self._version = int(tree["version"])
        self.refresh_s = 0.0 if complete else REFRESH_SECONDS

    def _fold(self, items: Iterable[tuple[str, dict[str, Any]]]) -> None:
        for kind, record in items:
            self.state = self.state.preview(record) if kind == "live" else self.state.apply(record)

    def _collect(self, items: Iterable[tuple[str, dict[str, Any]]]) -> None:
        receivers = {
            "event": self._collector.event,
            "live": self._collector.live_step,
            "sample": self._collector.sample,
        }
        for kind, record in items:
            receivers[kind](record)

    def poll(self) -> bool:
        """Nothing: items are folded when they are fetched.

        Raises:
            PageClientError: if the server cannot show the run.
        """
        if self._failure:
            raise PageClientError(self._failure)
        return True

    def console(self, most: int) -> tuple[str, ...]:
        """No lines: the server does not send them."""
        return ()


class ServedFolder:
    """The runs of a server."""

    kind: FolderKind = "page"

    def __init__(self, client: PageClient) -> None:
        self._client, self.shown = client, client.address

    def lines(self) -> tuple[RunLine, ...]:
        """The runs of the server, the one that started last first."""
        tree = self._client.get("/places")
        try:
            return tuple(_line(place) for place in tree["places"] if place["kind"] == "run")
        except _MALFORMED as error:
            raise PageClientError(f"{self.shown}: {UNEXPECTED}: {error!r:.100}") from None

    def open(self, name: str, clock: Callable[[], float], collector: EventCollector) -> ShownRun:
        """The run of this identity."""
        return ServedRun(self._client, name, collector)

    def within(self, name: str) -> RunFolder | None:
        """``None``: only runs are listed."""
        return None


def _line(place: Mapping[str, Any]) -> RunLine:
    status, started, task, preset, seed, group = (
        str(place[name] or "") for name in ("status", "started", "task", "preset", "seed", "group")
    )
    settings = ", ".join(f"{key} {value}" for key, value in place["settings"].items())
    return RunLine(str(place["id"]), status, started, task=task, preset=preset, seed=seed, group=group, detail=settings)


def served_place(address: str, environment: Mapping[str, str]) -> tuple[ServedFolder, str | None]:
    """The runs of a server, and the name of the run that an address shows.

    Args:
        environment: environment variables, of which one may hold the token.

    Raises:
        PageClientError: if it cannot be an address.
    """
    parts = urlsplit(address)
    if not parts.hostname or "@" in parts.netloc:
        raise PageClientError(
            f"{shortened(address)} cannot be used; an address is such as http://127.0.0.1:8080/runs/RUN"
        )
    found = _PLACE.fullmatch(parts.path)
    root = parts.path if found is None else found["root"]
    client = PageClient(f"{parts.scheme}://{parts.netloc}{root}", environment.get(_TOKEN))
    folder = ServedFolder(client)
    if found is None:
        folder.lines()
        return folder, None
    return folder, unquote(found["run"])
