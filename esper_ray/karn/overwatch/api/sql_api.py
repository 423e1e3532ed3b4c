"""SQL over the log of a run: tables, answers as JSON and as CSV."""

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import esper_ray
from esper_ray.karn.overwatch.access import refusal_tree
from esper_ray.karn.overwatch.api.parameters import number
from esper_ray.karn.overwatch.api.services import VERSION_HEADER, JsonResponse, Services, answer, refusing
from esper_ray.karn.overwatch.runs.followed import json_text
from esper_ray.karn.overwatch.sql.process import MOST_QUERY, REACHED_ROWS
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.shapes import Field, Kind
from esper_ray.nissa.log.tables import PROVENANCE

SQL_ROWS = 500
"""Rows of a page of a result."""
OFF = "SQL is off on an address that other machines reach; `esper overwatch --sql` switches it on"
CLOCK_ABOUT = {
    "round": "round, from 0",
    "episode": "number of the episode within the run",
    "env": "environment",
    "step": "finished steps of the episode",
}
EXAMPLES = (
    (
        "Return and accuracy by round",
        'SELECT round, avg(total_reward) AS "return", avg(val_accuracy_pp) AS accuracy FROM outcome GROUP BY round '
        "ORDER BY round",
    ),
    (
        "Reward by source",
        "SELECT source, count(*) AS entries, sum(amount) AS amount FROM env_epoch_entries GROUP BY source "
        "ORDER BY abs(sum(amount)) DESC",
    ),
    (
        "Why seeds were pruned",
        "SELECT blueprint, initiator, reason, count(*) AS n FROM seed_transition WHERE \"to\" = 'PRUNED' "
        "GROUP BY ALL ORDER BY n DESC",
    ),
    (
        "Checks that keep gates closed",
        "SELECT gate, name, count(*) AS n, avg(margin) AS margin FROM gate JOIN gate_checks USING (seq) "
        "WHERE NOT gate_checks.passed GROUP BY ALL ORDER BY n DESC",
    ),
)
"""Queries that can be chosen, by title."""


class SqlApi:
    """Endpoints of SQL."""

    def __init__(self, services: Services) -> None:
        self._services, self._sql = services, services.sql

    def routes(self) -> list[BaseRoute]:
        """Routes below ``/api/v1``."""
        return [
            Route("/runs/{name}/sql", refusing(self.post), methods=["POST"]),
            Route("/runs/{name}/sql", refusing(self.table), methods=["GET"]),
            Route("/runs/{name}/sql/tables", refusing(self.tables), methods=["GET"]),
        ]

    async def tables(self, request: Request) -> Response:
        """Tables with their columns, and examples."""
        await self._services.place(request, "run")
        examples = [{"title": title, "query": query} for title, query in EXAMPLES]
        reason = OFF if self._sql is None else None
        return answer({"enabled": self._sql is not None, "reason": reason, "tables": _TABLES, "examples": examples})

    async def post(self, request: Request) -> Response:
        """Rows of a query."""
        body = await _body(request)
        query = body.get("query")
        if not isinstance(query, str) or not query.strip():
            raise UsageError("query: one SELECT is needed")
        return await self._ask(request, query, number(body, "offset", 0), number(body, "limit", SQL_ROWS), csv=False)

    async def table(self, request: Request) -> Response:
        """Rows of a query as CSV, as a file. A page of another site cannot ask for it."""
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return JsonResponse(json_text(refusal_tree("the request comes from a page of another site")), 403)
        query = request.query_params.get("query", "")
        if request.query_params.get("format") != "csv" or not query.strip():
            raise UsageError("?format=csv&query=...: one SELECT is needed; POST answers with JSON")
        return await self._ask(request, query, 0, REACHED_ROWS, csv=True)

    async def _ask(self, request: Request, query: str, offset: int, limit: int, *, csv: bool) -> Response:
        place = await self._services.place(request, "run")
        if self._sql is None:
            return JsonResponse(json_text(refusal_tree(OFF, command="esper overwatch --sql")), 403)
        tree = await run_in_threadpool(self._sql.ask, place.path, query, offset, max(1, limit), csv=csv)
        if not csv:
            return answer(tree)
        name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in place.path.name)
        headers = {"content-disposition": f'attachment; filename="{name.encode("ascii", "replace").decode()}.csv"'}
        headers |= {VERSION_HEADER: esper_ray.__version__, "x-esper-more": "1" if tree["more"] else "0"}
        return Response(tree["csv"], headers=headers, media_type="text/csv; charset=utf-8")


async def _body(request: Request) -> dict[str, Any]:
    """The object of JSON in a request.

    Raises:
        UsageError: if it is not one. A form of another page cannot send one.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UsageError("the body must be JSON, with Content-Type application/json")
    content = b""
    async for block in request.stream():
        content += block
        if len(content) > 4 * MOST_QUERY + 1024:
            raise UsageError(f"the body has more than {4 * MOST_QUERY:,} bytes")
    try:
        tree = json.loads(content)
    except ValueError as error:
        raise UsageError(f"the body is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise UsageError("the body must be an object of JSON")
    return tree


def _columns(kind: Kind) -> list[dict[str, str]]:
    columns = [_column("seq", "int", "number of the event in the log")]
    columns += [_column(name, "int", CLOCK_ABOUT[name]) for name in kind.clock]
    columns += [_column(field.name, field.type, _about(field)) for field in kind.fields]
    columns += [_column(name, "text", "") for name in PROVENANCE if name != "seq"]
    return [*columns, _column("nonfinite", "texts", "paths of the numbers that were not finite")]


def _inner_columns(kind: Kind, field: Field) -> list[dict[str, str]]:
    columns = [
        _column(name, "int", CLOCK_ABOUT.get(name, "number of the event in the log")) for name in ("seq", *kind.clock)
    ]
    if field.type != "records":
        columns.append(_column("name", "text", "key"))
    inner = [_column(part.name, part.type, _about(part)) for part in field.fields]
    return columns + (inner or [_column("value", "float", _about(field))])


def _column(name: str, kind: str, about: str) -> dict[str, str]:
    return {"name": name, "type": kind, "about": about}


def _about(field: Field) -> str:
    return f"{field.about} ({field.unit})" if field.unit else field.about


def _all_tables() -> list[dict[str, Any]]:
    tables = [{"name": kind.name, "about": kind.about, "columns": _columns(kind)} for kind in KINDS.values()]
    for kind in KINDS.values():
        for field in kind.fields:
            if field.type in ("records", "records by name", "floats by name"):
                about = f"{field.about}, one row each"
                tables.append(
                    {"name": f"{kind.name}_{field.name}", "about": about, "columns": _inner_columns(kind, field)}
                )
    return tables


_TABLES = _all_tables()
