"""Names of blueprints in a configuration: built-in ones, and own ones in their places."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import WithJsonSchema

from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.blueprints import is_widening
from esper_ray.leyline.config.base import check_names
from esper_ray.leyline.plugins.entry_points import PART_PATTERN, checked_part

BUILT_IN_BLUEPRINTS = tuple(blueprint.id for blueprint in Blueprint)
PLACED = "="
"""Separator of a built-in blueprint and the own one in its place."""
BlueprintName = Annotated[
    str,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(BUILT_IN_BLUEPRINTS)},
                {
                    "type": "string",
                    "pattern": f"^({'|'.join(BUILT_IN_BLUEPRINTS)}){PLACED}({PART_PATTERN})$",
                    "description": "a built-in one, and the own one in its place: an entry point of the group "
                    "esper_ray.blueprints, or a place MODULE:FUNCTION",
                },
            ]
        }
    ),
]


def split_blueprint(name: str) -> tuple[Blueprint, str | None]:
    """The built-in blueprint whose index a name uses, and the own one there, if any."""
    built_in, placed, own = name.partition(PLACED)
    return Blueprint.from_id(built_in), own if placed else None


def checked_blueprints(names: tuple[str, ...]) -> tuple[str, ...]:
    """``names`` of the key ``growth.blueprints``.

    Raises:
        ValueError: if there are none, one is unknown or listed twice, or an own one has no possible name.
    """
    for name in names:
        if is_widening(name):
            raise ValueError(f"{name!r} takes the place of a built-in blueprint, as conv_light={name}")
    check_names("blueprint", tuple(name.partition(PLACED)[0] for name in names), BUILT_IN_BLUEPRINTS)
    own_names = [own for _, placed, own in (name.partition(PLACED) for name in names) if placed]
    for name in names:
        built_in, placed, own = name.partition(PLACED)
        if own_names.count(own) > 1:
            raise ValueError(f"own blueprint {own!r} has {own_names.count(own)} places; it can have one")
        if placed and checked_part(own) in BUILT_IN_BLUEPRINTS:
            raise ValueError(f"{own!r} is built in and cannot take the place of {built_in!r}; list it by itself")
    return names


def placed_blueprints(names: Sequence[str], places: Mapping[str, Any]) -> list[Any]:
    """``names`` with own blueprints in the places of built-in ones. Missing places are appended.

    Args:
        names: of the key ``growth.blueprints``.
        places: built-in to own blueprint; a built-in one by its own name gets its place back.
    """
    result: list[Any] = list(names)
    for built_in, own in places.items():
        name = built_in if own == built_in else f"{built_in}{PLACED}{own}" if isinstance(own, str) else own
        at = next((i for i, n in enumerate(result) if str(n).partition(PLACED)[0] == built_in), len(result))
        result[at : at + 1] = [name]
    return result
