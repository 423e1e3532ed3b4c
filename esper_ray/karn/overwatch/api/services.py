"""What the routes of a server share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

import esper_ray
from esper_ray.karn.overwatch.access import Access, refusal_tree
from esper_ray.karn.overwatch.runs.followed import FollowedRun, json_text
from esper_ray.karn.overwatch.runs.hub import Hub
from esper_ray.karn.overwatch.runs.index import IndexedPlace, PlaceIndex, PlaceKind, UnknownPlaceError
from esper_ray.karn.overwatch.runs.summaries import Summaries
from esper_ray.karn.overwatch.sql.process import SqlProcess
from esper_ray.karn.questions.tables import QuestionPool
from esper_ray.leyline.errors import UserError

VERSION_HEADER = "x-esper-version"


@dataclass(frozen=True, slots=True)
class Services:
    """Parts of a running server."""

    index: PlaceIndex
    hub: Hub
    summaries: Summaries
    access: Access
    root: str
    """Prefix of every path; empty without one."""
    questions: QuestionPool
    sql: SqlProcess | None
    """Process of SQL; ``None``: SQL is off."""

    async def place(self, request: Request, kind: PlaceKind) -> IndexedPlace:
        """The place that the path of a request names.

        Raises:
            UnknownPlaceError: if there is none.
        """
        return await run_in_threadpool(self.index.find, kind, request.path_params["name"])

    async def run(self, request: Request) -> FollowedRun:
        """The run that the path of a request names, followed from now on.

        Raises:
            UserError: if there is none, or it is not a run directory any more.
        """
        place = await self.place(request, "run")
        return await run_in_threadpool(self.hub.follow, place)

    def close(self) -> None:
        """End threads, processes and open tables."""
        self.hub.close()
        self.summaries.close()
        if self.sql is not None:
            self.sql.close()
        self.questions.close()


class JsonResponse(Response):
    """Answer of JSON that is text already."""

    media_type = "application/json"

    def __init__(self, text: str, status_code: int = 200) -> None:
        super().__init__(text, status_code, headers={VERSION_HEADER: esper_ray.__version__})


def answer(tree: Any) -> JsonResponse:
    """``tree`` as an answer."""
    return JsonResponse(json_text(tree))


def refusal(error: UserError) -> JsonResponse:
    """An error that the user can correct, as an answer: 404 for an unknown place, else 400."""
    if isinstance(error, UnknownPlaceError):
        return JsonResponse(json_text(refusal_tree(str(error), error.nearest, error.command)), 404)
    return JsonResponse(json_text(refusal_tree(str(error))), 400)


Endpoint = Callable[[Request], Awaitable[Response]]


def refusing(endpoint: Endpoint) -> Endpoint:
    """``endpoint`` with its errors as answers of JSON."""

    async def wrapped(request: Request) -> Response:
        try:
            return await endpoint(request)
        except UserError as error:
            return refusal(error)
        except OSError as error:
            return JsonResponse(json_text(refusal_tree(f"{error.filename} cannot be read: {error.strerror}")), 400)

    return wrapped
