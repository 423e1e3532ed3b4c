"""Answers of ``/api/v1/runs/R/...`` that are asked for: episodes, seeds, policy, network, log, recordings."""

from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from esper_ray.karn.overwatch.api.parameters import flag, number, text
from esper_ray.karn.overwatch.api.services import Services, answer, refusing
from esper_ray.karn.overwatch.runs.followed import FollowedRun
from esper_ray.karn.questions.episode import (
    UnknownEpisodeError,
    episode_account,
    live_episode,
    logged_episode,
    mean_control,
)
from esper_ray.karn.questions.episodes import MOST_EPISODES, episode_page
from esper_ray.karn.questions.flights import recording_account, recording_list
from esper_ray.karn.questions.log_records import MOST_RECORDS, log_page, page_tree
from esper_ray.karn.questions.policy import newest_decisions, policy_account, policy_by_round
from esper_ray.karn.questions.seeds import seed_account
from esper_ray.karn.questions.tables import RunQuestions
from esper_ray.leyline.errors import UserError

PAGE_ROWS = 100


class QuestionApi:
    """Endpoints that ask the log of a run."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[BaseRoute]:
        """Routes below ``/api/v1``."""
        endpoints = {
            "/runs/{name}/episodes": self.episodes,
            "/runs/{name}/episodes/{episode}": self.episode,
            "/runs/{name}/episodes/{episode}/seeds/{seed}": self.seed,
            "/runs/{name}/policy": self.policy,
            "/runs/{name}/network": self.network,
            "/runs/{name}/log": self.log,
            "/runs/{name}/flight": self.flights,
            "/runs/{name}/flight/{number}": self.flight,
        }
        return [Route(path, refusing(endpoint), methods=["GET"]) for path, endpoint in endpoints.items()]

    async def _questions(self, request: Request) -> tuple[FollowedRun, RunQuestions]:
        run = await self._services.run(request)
        return run, self._services.questions.of(run.run)

    async def episodes(self, request: Request) -> Response:
        """One page of the table of finished episodes."""
        _, questions = await self._questions(request)
        query = request.query_params
        page = await run_in_threadpool(
            questions.ask,
            episode_page,
            text(query, "sort", "episode"),
            descending=flag(query, "descending"),
            offset=number(query, "offset", 0),
            limit=number(query, "limit", PAGE_ROWS, most=MOST_EPISODES),
            words=text(query, "filter"),
        )
        return answer(page)

    async def episode(self, request: Request) -> Response:
        """The account of an episode, in play or logged."""
        run, questions = await self._questions(request)
        episode = number(request.path_params, "episode", 0)
        return answer(await run_in_threadpool(_episode, run, questions, episode))

    async def seed(self, request: Request) -> Response:
        """The story of a seed."""
        _, questions = await self._questions(request)
        episode, seed = number(request.path_params, "episode", 0), request.path_params["seed"]
        return answer(await run_in_threadpool(questions.ask, seed_account, episode, seed))

    async def policy(self, request: Request) -> Response:
        """Heads and operations by round, and the newest decisions."""
        run, questions = await self._questions(request)

        def account() -> dict[str, Any]:
            rounds, decisions = questions.ask(policy_by_round), questions.ask(newest_decisions)
            return policy_account(rounds, decisions, run.choices)

        return answer(await run_in_threadpool(account))

    async def network(self, request: Request) -> Response:
        """Layers of the host, and the seeds of an episode at a step."""
        run, questions = await self._questions(request)
        query = request.query_params
        episode, step = (number(query, name, -1, least=-1) for name in ("episode", "step"))
        return answer(await run_in_threadpool(_network, run, questions, episode, step))

    async def log(self, request: Request) -> Response:
        """Records of the log, newest first."""
        run = await self._services.run(request)
        query = request.query_params
        before = number(query, "before", -1, least=-1)
        limit = number(query, "limit", 200, most=MOST_RECORDS)
        kind, words = text(query, "kind"), text(query, "text")
        page = await run_in_threadpool(log_page, run.run, kind, words, None if before < 0 else before, limit)
        return answer(page_tree(page))

    async def flights(self, request: Request) -> Response:
        """The recordings of a run."""
        run = await self._services.run(request)
        return answer(await run_in_threadpool(recording_list, run.run, run.place.shown))

    async def flight(self, request: Request) -> Response:
        """One recording, item by item."""
        run = await self._services.run(request)
        index = number(request.path_params, "number", 0)
        return answer(await run_in_threadpool(recording_account, run.run, index))


def _episode(run: FollowedRun, questions: RunQuestions, episode: int) -> Mapping[str, Any]:
    """The account of an episode: of one in play from its steps, else from the log.

    Raises:
        UserError: if there is no such episode, or the log cannot be read.
    """
    steps = live_episode(run.recent.live, episode)
    if not steps:
        return questions.ask(logged_episode, episode)
    try:
        control = questions.ask(mean_control)
    except UserError:
        control = []
    decisions = [sample for sample in run.recent.decisions.get(steps[0]["env"], ()) if sample["episode"] == episode]
    return episode_account(steps, decisions, control, live=True)


def _network(run: FollowedRun, questions: RunQuestions, episode: int, step: int) -> dict[str, Any]:
    host = run.follower.state.host
    tree: dict[str, Any] = {
        "recorded": host is not None,
        "layers": list(host["layers"]) if host is not None else [],
        "parameters": host["parameters"] if host is not None else None,
        "episode": None if episode < 0 else episode,
        "seeds": {},
        "steps": 0,
    }
    if episode < 0:
        return tree
    try:
        steps = _episode(run, questions, episode)["steps"]
    except UnknownEpisodeError:
        return tree
    chosen = [entry for entry in steps if step < 0 or entry["step"] <= step]
    return tree | {"seeds": chosen[-1]["slots"] if chosen else {}, "steps": len(steps)}
