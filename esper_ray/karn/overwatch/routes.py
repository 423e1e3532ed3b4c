"""The application: pages, login, files of the page, and the interface of JSON."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from urllib.parse import parse_qs

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

import esper_ray
from esper_ray.karn.overwatch.access import AccessMiddleware, local_target, refusal_tree
from esper_ray.karn.overwatch.api.place_api import PlaceApi
from esper_ray.karn.overwatch.api.question_api import QuestionApi
from esper_ray.karn.overwatch.api.run_api import RunApi, missing
from esper_ray.karn.overwatch.api.services import VERSION_HEADER, Endpoint, Services
from esper_ray.karn.overwatch.api.sql_api import SqlApi
from esper_ray.karn.overwatch.api.view_api import ViewApi
from esper_ray.karn.overwatch.assets import ROOM, Assets
from esper_ray.karn.overwatch.runs.index import IndexedPlace, PlaceKind, UnknownPlaceError

PAGES: dict[str, tuple[str, PlaceKind | None]] = {
    "/": ("places", None),
    "/runs/{name}": ("run", "run"),
    "/runs/{name}/episodes": ("episodes", "run"),
    "/runs/{name}/episodes/{episode}": ("episode", "run"),
    "/runs/{name}/episodes/{episode}/seeds/{seed}": ("seed", "run"),
    "/runs/{name}/policy": ("policy", "run"),
    "/runs/{name}/network": ("network", "run"),
    "/runs/{name}/log": ("log", "run"),
    "/runs/{name}/sql": ("sql", "run"),
    "/runs/{name}/flight": ("flight", "run"),
    "/runs/{name}/flight/{number}": ("flight", "run"),
    "/compare": ("compare", None),
    "/comparisons/{name}": ("comparison", "comparison"),
    "/sweeps/{name}": ("sweep", "sweep"),
    "/evaluations/{name}": ("evaluation", "evaluation"),
}
"""Page and kind of its place, by path."""
POSTS = ("/login", "/sql")
"""Ends of the paths that accept POST."""
LOGIN_BYTES = 8192
"""Greatest size of the form of the login."""
LOGIN_SECONDS = 1.0
"""Time that a wrong token costs."""
MOST_LOGINS = 8
"""Wrong logins that wait at the same time."""


class Pages:
    """Every page is one shell, which a script fills from the interface of JSON."""

    def __init__(self, services: Services) -> None:
        self._services, self._waiting = services, 0
        source = jinja2.FunctionLoader(lambda name: (files(ROOM) / "templates" / name).read_text(encoding="utf-8"))
        self._templates = jinja2.Environment(loader=source, autoescape=True, undefined=jinja2.StrictUndefined)

    def render(self, template: str, status: int = 200, **variables: object) -> Response:
        """A template with the prefix of the server and the version of the program."""
        version = esper_ray.__version__
        text = self._templates.get_template(template).render(root=self._services.root, version=version, **variables)
        return HTMLResponse(text, status, {VERSION_HEADER: version})

    def missing(self, error: str, status: int, nearest: IndexedPlace | None, command: str | None) -> Response:
        """A page that says what is missing, and what helps."""
        name, address = (None, None) if nearest is None else (nearest.id, nearest.url)
        return self.render("missing.html", status, error=error, nearest=name, nearest_url=address, command=command)

    def page(self, name: str, kind: PlaceKind | None) -> Endpoint:
        """Endpoint of a page. Of an unknown place, it says which one has a similar name."""

        async def respond(request: Request) -> Response:
            title = request.path_params.get("name", name)
            if kind is not None:
                try:
                    await self._services.place(request, kind)
                except UnknownPlaceError as error:
                    near = None if error.nearest is None else self._services.index.find(kind, error.nearest)
                    return self.missing(str(error), 404, near, error.command)
            return self.render("page.html", page=name, title=title)

        return respond

    async def login(self, request: Request) -> Response:
        """The form of the login, and its answer."""
        root, access = self._services.root, self._services.access
        if request.method != "POST":
            if access.token is None:
                return RedirectResponse(f"{root}/", 303)
            target = local_target(request.query_params.get("next", "/"))
            return self.render("login.html", wrong=False, next=target)
        form = await _form(request)
        target = local_target(form.get("next", "/"))
        if access.token is not None and not access.is_token(form.get("token", "")):
            return await self._wrong_token(target)
        response = RedirectResponse(f"{root}{target}", 303)
        if access.token is not None:
            access.login(response, root=root, secure=request.url.scheme == "https")
        return response

    async def _wrong_token(self, target: str) -> Response:
        """The form again, after a while; at once if many wrong tokens are waiting."""
        if self._waiting >= MOST_LOGINS:
            return self.render("login.html", 429, wrong=True, next=target)
        self._waiting += 1
        try:
            await asyncio.sleep(LOGIN_SECONDS)
        finally:
            self._waiting -= 1
        return self.render("login.html", 403, wrong=True, next=target)


async def _form(request: Request) -> dict[str, str]:
    """Fields of a form; none of one that is too long."""
    content = b""
    async for block in request.stream():
        content += block
        if len(content) > LOGIN_BYTES:
            return {}
    return {name: values[0] for name, values in parse_qs(content.decode("utf-8", "replace")).items()}


async def _health(request: Request) -> Response:
    return JSONResponse({"ok": True}, headers={VERSION_HEADER: esper_ray.__version__})


async def _fault(request: Request, error: Exception) -> Response:
    """Answer to a request that met a fault of the program, which is logged."""
    return JSONResponse(refusal_tree(f"a fault of the program: {type(error).__name__}"), 500)


def application(services: Services) -> ASGIApp:
    """The application of a server."""
    pages, assets = Pages(services), Assets()
    interface = [
        *RunApi(services).routes(),
        *ViewApi(services).routes(),
        *QuestionApi(services).routes(),
        *SqlApi(services).routes(),
        *PlaceApi(services).routes(),
    ]

    async def not_found(request: Request, error: Exception) -> Response:
        path = request.url.path.removeprefix(services.root)
        if isinstance(error, HTTPException) and error.status_code != 404:
            return JSONResponse(refusal_tree(error.detail), error.status_code)
        if path.startswith("/api/"):
            return missing(path)
        return pages.missing(f"there is no page {path}", 404, None, None)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        services.hub.start()
        services.summaries.start()
        if services.sql is not None:
            await run_in_threadpool(services.sql.start)
        yield
        await run_in_threadpool(services.close)

    routes = [
        Route("/healthz", _health),
        Route("/login", pages.login, methods=["GET", "POST"]),
        Route("/static/{path:path}", assets.respond),
        Mount("/api/v1", routes=interface),
        *(Route(path, pages.page(name, kind)) for path, (name, kind) in PAGES.items()),
    ]
    inner = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: not_found, Exception: _fault},
        middleware=[Middleware(GZipMiddleware, minimum_size=1024, compresslevel=4)],
    )
    return AccessMiddleware(inner, services.access, services.root, POSTS)
