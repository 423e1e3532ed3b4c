"""Answers about several runs: comparisons that one chooses, comparisons of two sides, sweeps, evaluations."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from esper_ray.karn.overwatch.api.services import Services, answer, refusing
from esper_ray.karn.overwatch.runs.index import IndexedPlace
from esper_ray.karn.questions.comparisons import MOST_COMPARED, ComparedRun, comparison, round_columns
from esper_ray.karn.questions.evaluations import evaluation_account, sweep_account, verdict_account
from esper_ray.leyline.errors import UsageError

KEPT_SECONDS = 3.0
"""Time for which an answer about many files is given again."""


class PlaceApi:
    """Endpoints about places that are no single runs."""

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: seconds, by which answers are kept.
        """
        self._services, self._clock, self._lock = services, clock, threading.Lock()
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}

    def routes(self) -> list[BaseRoute]:
        """Routes below ``/api/v1``."""
        endpoints = {
            "/compare": self.compare,
            "/comparisons/{name}": self.comparison,
            "/sweeps/{name}": self.sweep,
            "/evaluations/{name}": self.evaluation,
        }
        return [Route(path, refusing(endpoint), methods=["GET"]) for path, endpoint in endpoints.items()]

    async def compare(self, request: Request) -> Response:
        """Runs that the user has chosen."""
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        if not 2 <= len(names) <= MOST_COMPARED:
            raise UsageError(f"run: {len(names)} runs are named, choose 2 to {MOST_COMPARED}")

        def account() -> dict[str, Any]:
            places = [self._services.index.find("run", name) for name in names]
            return comparison(" and ".join(names), [self._run(place) for place in places])

        return answer(await run_in_threadpool(account))

    async def comparison(self, request: Request) -> Response:
        """The two sides of a comparison, with its verdict."""
        place = await self._services.place(request, "comparison")

        def account() -> dict[str, Any]:
            sides = members(self._services.index.places(), place)
            return comparison(place.id, [self._run(side) for side in sides]) | verdict_account(place.path)

        return answer(await run_in_threadpool(self._once, place, account))

    async def sweep(self, request: Request) -> Response:
        """Trials and rankings of a sweep."""
        place = await self._services.place(request, "sweep")

        def account() -> dict[str, Any]:
            trials = {trial.path: trial.url for trial in members(self._services.index.places(), place)}
            return sweep_account(place.path, lambda path: trials.get(place.path / path))

        return answer(await run_in_threadpool(self._once, place, account))

    async def evaluation(self, request: Request) -> Response:
        """Policies of an evaluation."""
        place = await self._services.place(request, "evaluation")
        return answer(await run_in_threadpool(self._once, place, lambda: evaluation_account(place.path)))

    def _once(self, place: IndexedPlace, account: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The account of a place, computed once for all who ask within ``KEPT_SECONDS``."""
        with self._lock:
            known = self._kept.get(place.url)
            if known is None or self._clock() - known[0] > KEPT_SECONDS:
                known = self._kept[place.url] = (self._clock(), account())
            return known[1]

    def _run(self, place: IndexedPlace) -> ComparedRun:
        """A run as it is compared.

        Raises:
            UserError: if its files cannot be read.
        """
        facts = self._services.summaries.compared(place)
        return ComparedRun(
            id=place.id,
            name=place.path.name,
            url=place.url,
            status=facts.status,
            seed=facts.settings.get("seed"),
            group=facts.group,
            settings=facts.settings,
            gain=facts.gain,
            control_ratio=facts.control_ratio,
            columns=round_columns(place.path),
        )


def members(places: Sequence[IndexedPlace], parent: IndexedPlace) -> list[IndexedPlace]:
    """The runs that belong to a comparison or a sweep."""
    return [place for place in places if place.parent == parent.id and place.kind == "run"]
