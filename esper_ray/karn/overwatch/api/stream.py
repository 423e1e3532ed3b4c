"""Stream of the changes of a run as server-sent events.

An event holds the sections that are newer than those that the client has. The newest state wins: between two events
nothing is kept for a client but the version that it was sent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from esper_ray.karn.overwatch.runs.followed import FollowedRun
from esper_ray.karn.overwatch.runs.hub import FOLLOW_SECONDS, Hub
from esper_ray.karn.overwatch.runs.index import IndexedPlace

PING_SECONDS = 15
"""Seconds between two comments that keep the connection."""
SEND_SECONDS = 5.0
"""Time after which a send that does not end, ends the client."""
RETRY_MILLISECONDS = 1000
"""Time after which a browser connects again."""


async def run_events(hub: Hub, place: IndexedPlace, since: int) -> AsyncIterator[dict[str, Any]]:
    """Events of a run for one client, at most one every ``FOLLOW_SECONDS``.

    Args:
        since: version that the client has; 0: none.
    """
    with hub.watching(place) as (run, changed):
        sent = since if since <= run.shot.version else 0
        first = True
        while not hub.is_closed:
            changed.clear()
            shot = run.shot
            if shot.version > sent or first:
                began = time.monotonic()
                event: dict[str, Any] = {"event": "state", "id": str(shot.version), "data": shot.text(sent)}
                if first:
                    event["retry"] = RETRY_MILLISECONDS
                yield event
                sent, first = shot.version, False
                await asyncio.sleep(max(0.0, FOLLOW_SECONDS - (time.monotonic() - began)))
            else:
                await changed.wait()


def known_version(header: str | None, parameter: str | None) -> int:
    """Version that a client has, from ``Last-Event-ID`` or ``?since=``; 0 if neither is a number."""
    for text in (header, parameter):
        if text is not None and text.isascii() and text.isdigit() and len(text) <= 18:
            return int(text)
    return 0


async def first_shot(run: FollowedRun, wait_s: float, is_closed: Callable[[], bool]) -> None:
    """Wait until the log of a run has been read, ``wait_s`` seconds at most."""
    end = time.monotonic() + wait_s
    while not run.shot.complete and time.monotonic() < end and not is_closed():
        await asyncio.sleep(0.01)


class RunEventResponse(EventSourceResponse):
    """Answer that pings, and ends a client that has left or does not read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until their end, or that of the client."""
        with suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


def event_response(events: AsyncIterator[dict[str, Any]]) -> Response:
    """The answer of these events."""
    return RunEventResponse(events, ping=PING_SECONDS, send_timeout=SEND_SECONDS)
