"""The answers of ``/api/v1``: places, runs and their stream."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from esper_ray.karn.overwatch.api.services import JsonResponse, Services, answer, refusing
from esper_ray.karn.overwatch.api.stream import event_response, first_shot, known_version, run_events
from esper_ray.karn.overwatch.runs.followed import json_text

FIRST_SECONDS = 0.3
"""Time for which the first request of a run waits for its log; then what is known is sent."""


class RunApi:
    """Endpoints about places and about the state of a run."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[BaseRoute]:
        """Routes below ``/api/v1``."""
        endpoints = {
            "/places": self.places,
            "/runs/{name}": self.run,
            "/runs/{name}/stream": self.stream,
        }
        return [Route(path, refusing(endpoint), methods=["GET"]) for path, endpoint in endpoints.items()]

    async def places(self, request: Request) -> Response:
        """All places with a line about each."""
        return await run_in_threadpool(self._places)

    def _places(self) -> JsonResponse:
        index = self._services.index
        lines = self._services.summaries.lines(index.places())
        problems = [*index.problems, *self._services.hub.copies.problems]
        return answer({"places": lines, "problems": problems, "folders": index.shown_folders})

    async def run(self, request: Request) -> Response:
        """The complete state of a run."""
        run = await self._services.run(request)
        await first_shot(run, FIRST_SECONDS, lambda: self._services.hub.is_closed)
        return JsonResponse(run.shot.text())

    async def stream(self, request: Request) -> Response:
        """What changes in a run, as server-sent events."""
        place = await self._services.place(request, "run")
        await self._services.run(request)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        since = known_version(request.headers.get("last-event-id"), request.query_params.get("since"))
        return event_response(run_events(self._services.hub, place, since))


def missing(path: str) -> JsonResponse:
    """Answer to a path of the interface that does not exist."""
    tree = {"error": f"there is no {path} in the interface", "nearest": None, "command": None}
    return JsonResponse(json_text(tree), 404)
