"""The declaration of the interface is that of its routes, its sections and its columns."""

from overwatch_builders import served, state_of

from esper_ray.karn.overwatch.api.interface import COLUMN_ABOUT, ENDPOINTS, SECTION_ABOUT
from esper_ray.karn.overwatch.api.place_api import PlaceApi
from esper_ray.karn.overwatch.api.question_api import QuestionApi
from esper_ray.karn.overwatch.api.run_api import RunApi
from esper_ray.karn.overwatch.api.sql_api import SqlApi
from esper_ray.leyline.actions import HEADS
from esper_ray.nissa.catalogue.kinds import KINDS


def test_every_route_is_declared(recorded):
    with served(recorded) as client:
        parts = [part(client.services) for part in (RunApi, QuestionApi, SqlApi, PlaceApi)]
    routes = [(route.path, method) for part in parts for route in part.routes() for method in route.methods - {"HEAD"}]
    assert sorted(routes) == sorted((endpoint.path, endpoint.method) for endpoint in ENDPOINTS)


def test_every_section_and_every_column_is_declared(client):
    sections = state_of(client)
    assert set(sections) == set(SECTION_ABOUT)
    own = {name for name in COLUMN_ABOUT if name != "head_entropy_HEAD"} | {f"head_entropy_{head}" for head in HEADS}
    declared = {field.name for kind in ("round", "ppo_update") for field in KINDS[kind].fields} | {"round"} | own
    columns = set(sections["rounds"]["columns"])
    assert columns <= declared
    assert own <= columns
