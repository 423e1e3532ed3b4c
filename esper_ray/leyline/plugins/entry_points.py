"""Parts of other packages by name: tasks, rewards, hosts and blueprints.

A package adds a part by an entry point of the group of its kind. A part is also named by its place,
``module:attribute``. It is imported when it is used.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distribution, entry_points, packages_distributions
from importlib.util import find_spec
from typing import Any

from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.errors import UserError, shortened
from esper_ray.leyline.names import NAME_PATTERN

PLACE_PATTERN = r"[A-Za-z_][A-Za-z0-9_.]{0,199}:[A-Za-z_][A-Za-z0-9_.]{0,199}"
"""A place ``module:attribute``, as a regular expression of the whole text."""
PART_PATTERN = f"{NAME_PATTERN}|{PLACE_PATTERN}"
"""Name or place of a part, as a regular expression of the whole text."""


class PluginError(UserError, ValueError):
    """A part of another package that is missing, cannot be imported, or does not work."""

    remedy = "Install the package that the message names, on every node; or correct the part."


@dataclass(frozen=True, slots=True)
class Plugin:
    """An imported part."""

    name: str
    part: Callable[..., Any]
    origin: str
    """Kind, name and package, for messages."""

    @property
    def about(self) -> str:
        """First line of its docstring."""
        return next(iter((self.part.__doc__ or "").strip().splitlines()), "")


@dataclass(frozen=True, slots=True)
class PluginGroup:
    """Parts of one kind in installed packages."""

    kind: str
    """``task``, ``reward``, ``host`` or ``blueprint``; the group is ``esper_ray.`` and its plural."""
    signature: str
    """What a part is, for messages."""
    error: type[UserError] = PluginError

    @property
    def group(self) -> str:
        """Group of the entry points."""
        return f"esper_ray.{self.kind}s"

    def offered(self, taken: Collection[str] = ()) -> dict[str, EntryPoint]:
        """Entry points of the group by name, not imported.

        Args:
            taken: built-in names, which a package cannot offer.

        Raises:
            PluginError: (or the error of the group) if a package offers a taken name, or two packages the same one.
        """
        offered: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            previous = offered.get(point.name)
            if point.name in taken or (previous is not None and previous.value != point.value):
                conflict = "is already registered" if previous is None else f"is offered by {_package(previous)} too"
                raise self.error(
                    f"{_package(point)} offers the {self.kind} {point.name!r}, which {conflict}; "
                    "uninstall or rename one"
                )
            offered[point.name] = point
        return offered

    def find(self, name: str, taken: Collection[str] = ()) -> Plugin:
        """The part of this name or place, imported.

        Args:
            taken: built-in names.

        Raises:
            PluginError: (or the error of the group) if there is none, it cannot be imported, or it is not callable.
        """
        if is_place(name):
            return self.imported(EntryPoint(name, name, self.group))
        offered = self.offered(taken)
        known = sorted([*taken, *offered])
        if name not in offered:
            if known:
                raise self.error(unknown_name_message(self.kind, name, known))
            raise self.error(
                f"unknown {self.kind} {shortened(name)}: no package here offers one by an entry point of the group "
                f"{self.group}; install one, or name a place such as 'my_package:build'"
            )
        return self.imported(offered[name])

    def imported(self, point: EntryPoint) -> Plugin:
        """The part of an entry point.

        Raises:
            PluginError: (or the error of the group) if it cannot be imported, or is not callable.
        """
        place, origin = f"{_package(point)} offers the {self.kind} {point.name!r} as {point.value}, which", ""
        if point.dist is None:
            place, origin = f"the {self.kind} {point.name!r}", f"{self.kind} {point.name!r}"
        try:
            part = point.load()
        except Exception as error:  # an import can raise anything
            hint = ""
            if isinstance(error, ModuleNotFoundError) and point.dist is None and error.name == _top(point.value):
                hint = "; install its package, or put its folder on PYTHONPATH, on every node"
            raise self.error(f"{place} cannot be imported: {type(error).__name__}: {error}{hint}") from error
        if not callable(part):
            raise self.error(f"{place} must be a function {self.signature}, got {shortened(part)}")
        return Plugin(point.name, part, origin or f"{self.kind} {point.name!r} of {_package(point)}")

    def package(self, name: str) -> tuple[str | None, str | None]:
        """Package and version of the part of this name or place. Both are ``None`` without a package."""
        if not is_place(name):
            point = self.offered().get(name)
            return (None, None) if point is None or point.dist is None else (point.dist.name, point.dist.version)
        owners = packages_distributions().get(_top(name), ())
        return next(((owner, distribution(owner).version) for owner in owners), (None, None))

    def is_present(self, name: str) -> bool:
        """Whether a part is offered here, or the module of its place exists. Nothing is imported."""
        if is_place(name):
            try:
                return find_spec(_top(name)) is not None
            except (ImportError, ValueError):
                return False
        return name in self.offered()


TASK_PLUGINS = PluginGroup("task", "(TaskConfig, device) -> Dataset")
REWARD_PLUGINS = PluginGroup("reward", "(Transition, options) -> ledger entries")
HOST_PLUGINS = PluginGroup("host", "(input_shape, classes, options) -> module")
BLUEPRINT_PLUGINS = PluginGroup("blueprint", "(SlotShape) -> module")


def is_place(name: str) -> bool:
    """Whether ``name`` is a place ``module:attribute``."""
    return ":" in name


def checked_part(name: str) -> str:
    """``name``, if it can be the name or the place of a part.

    Raises:
        ValueError: if it cannot.
    """
    if not re.fullmatch(PART_PATTERN, name):
        raise ValueError(
            f"{shortened(name)} is neither the name of an entry point nor a place such as 'my_package:build'"
        )
    return name


def _top(place: str) -> str:
    return place.partition(":")[0].partition(".")[0]


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name} {point.dist.version}" if point.dist is not None else "a package"
