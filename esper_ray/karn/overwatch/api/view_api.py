"""What a terminal view elsewhere follows: the state of a run once, and afterwards the items that are new.

The client folds the items as a follower of the files does, so that it shows what a viewer beside the run shows.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from esper_ray.karn.overwatch.api.parameters import number
from esper_ray.karn.overwatch.api.services import JsonResponse, Services, answer, refusing
from esper_ray.karn.overwatch.api.stream import first_shot
from esper_ray.karn.overwatch.runs.followed import FollowedRun
from esper_ray.karn.overwatch.runs.hub import Hub
from esper_ray.karn.overwatch.runs.index import IndexedPlace
from esper_ray.karn.recent import Recent
from esper_ray.leyline.records import Record
from esper_ray.nissa.state.codec import state_to_json
from esper_ray.nissa.state.run_state import RunState

FIRST_SECONDS = 5.0
"""Time for which a request waits for the log to be read for the first time."""
MOST_WAIT_SECONDS = 10
"""Longest time for which a request waits for a change."""


class ViewApi:
    """Endpoint ``/runs/{name}/view``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[BaseRoute]:
        """Routes below ``/api/v1``."""
        return [Route("/runs/{name}/view", refusing(self.view), methods=["GET"])]

    async def view(self, request: Request) -> Response:
        """Items after the number ``since``.

        Without it, or if some are gone, the answer holds the state and the newest records. A client that knows the
        ``version`` of the newest answer gets the next one as soon as something changes, after ``wait`` seconds at most.
        """
        place = await self._services.place(request, "run")
        run = await self._services.run(request)
        await first_shot(run, FIRST_SECONDS, lambda: self._services.hub.is_closed)
        query = request.query_params
        wait_s = number(query, "wait", 0, most=MOST_WAIT_SECONDS)
        if wait_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(_changed(self._services.hub, place, number(query, "version", 0)), wait_s)
        since = number(query, "since", -1)
        return await run_in_threadpool(_answer, run, None if since < 0 else since)


async def _changed(hub: Hub, place: IndexedPlace, version: int) -> None:
    """Wait until a run is of another version."""
    with hub.watching(place) as (run, changed):
        while run.shot.version == version and not hub.is_closed:
            await changed.wait()
            changed.clear()


def _answer(run: FollowedRun, since: int | None) -> JsonResponse:
    version = run.shot.version  # before the items: a change in between ends the next wait at once
    follower, shot = run.follower, run.folded
    sight = follower.sight
    tree: dict[str, Any] = {
        "reading": not run.shot.complete,
        "version": version,
        "item": shot.item,
        "path": run.place.shown,
        "manifest": dict(follower.manifest),
        "pulse": None if sight.pulse is None else dict(sight.pulse),
        "beat_age_s": sight.beat_age_s,
        "moved_age_s": sight.moved_age_s,
        "problems": list(follower.problems),
        "notes": list(follower.notes),
        "live_is_full": follower.live_is_full,
        "choices": dict(run.choices),
        "failure": run.failure,
        "totals": totals_of(shot.state),
        "timings": [dict(row) for row in shot.state.timings[-1:]],
    }
    items = None if since is None else run.items.between(since, shot.item)
    if items is not None:
        return answer(tree | {"items": items})
    state = json.dumps(state_to_json(shot.state))  # as text: it may hold numbers that are not finite
    return answer(tree | {"state": state, "records": recent_items(shot.recent)})


def totals_of(state: RunState) -> list[int]:
    """Events and faults that a state holds.

    A client whose items lead to other numbers asks for the whole state.
    """
    return [sum(state.totals.events.values()), sum(state.totals.faults.values())]


def recent_items(recent: Recent) -> list[tuple[str, Record]]:
    """The newest records as items, in an order in which a collector can receive them."""
    events = {record["seq"]: record for records in recent.episodes.values() for record in records}
    events |= {record["seq"]: record for records in recent.by_kind.values() for record in records}
    items = [("event", events[number]) for number in sorted(events)]
    items += [("live", record) for records in recent.live.values() for record in records]
    return [*items, *(("sample", record) for records in recent.decisions.values() for record in records)]
