"""Packages of the parts that a run uses, as its manifest records them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esper_ray.leyline.config.host import OwnHostConfig
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.plugins.entry_points import (
    BLUEPRINT_PLUGINS,
    HOST_PLUGINS,
    REWARD_PLUGINS,
    TASK_PLUGINS,
    PluginError,
    PluginGroup,
    is_place,
)

PLUGINS_KEY = "plugins"
"""Key of a manifest with the parts of other packages."""
_GROUPS = {group.kind: group for group in (TASK_PLUGINS, REWARD_PLUGINS, HOST_PLUGINS, BLUEPRINT_PLUGINS)}


def origins(config: RunConfig) -> list[dict[str, str | None]]:
    """Kind, name, package and version of each part of another package that a run uses.

    A part that belongs to no package, such as a module on the path, has ``None`` for both.
    """
    rows = []
    for group, name in _used(config):
        package, version = group.package(name)
        rows.append({"kind": group.kind, "name": name, "package": package, "version": version})
    return rows


def recorded_origins(*configs: RunConfig) -> dict[str, list[dict[str, str | None]]]:
    """Entry of a manifest with the parts of ``configs``; empty if they have none."""
    rows = [row for config in configs for row in origins(config)]
    distinct = [row for index, row in enumerate(rows) if row not in rows[:index]]
    return {PLUGINS_KEY: distinct} if distinct else {}


def check_origins(place: str, manifest: Mapping[str, Any]) -> list[str]:
    """Lines about parts of a run whose version differs here. All must be installed.

    Args:
        place: of the run or sweep, for messages.
        manifest: its manifest, with the rows of :func:`origins`. Rows of another form are ignored.

    Raises:
        PluginError: naming the first part that is missing, and what to install.
    """
    notes, recorded = [], manifest.get(PLUGINS_KEY)
    for row in recorded if isinstance(recorded, Sequence) else ():
        group = _GROUPS.get(str(row.get("kind"))) if isinstance(row, Mapping) else None
        if group is None:
            continue
        name, package, version = str(row["name"]), row.get("package"), row.get("version")
        if not group.is_present(name):
            raise PluginError(f"{place} needs the {group.kind} {name!r}{_remedy(name, package, version)}")
        present = group.package(name)
        if package is not None and present != (package, version):
            notes.append(
                f"{place} was started with the {group.kind} {name!r} of {package} {version}; here it is that of "
                f"{present[0]} {present[1]}"
            )
    return notes


def _remedy(name: str, package: Any, version: Any) -> str:
    if package is not None:
        return (
            f" of the package {package} {version}, which is not installed here: pip install {package}=={version}, "
            "on every node"
        )
    if is_place(name):
        return ", whose module is not found here: put its folder on PYTHONPATH, or install its package, on every node"
    return ", which no package here offers: install its package, on every node"


def _used(config: RunConfig) -> Iterator[tuple[PluginGroup, str]]:
    if config.task.name in TASK_PLUGINS.offered():
        yield TASK_PLUGINS, config.task.name
    if config.reward.mode not in REWARD_MODES:
        yield REWARD_PLUGINS, config.reward.mode
    if isinstance(config.host, OwnHostConfig):
        yield HOST_PLUGINS, config.host.build
    for name in sorted(set(config.growth.own_blueprints.values())):
        yield BLUEPRINT_PLUGINS, name
