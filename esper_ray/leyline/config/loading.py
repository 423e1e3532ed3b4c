"""Loading of presets, files and flags into one validated :class:`~esper_ray.leyline.config.run.RunConfig`.

Precedence: preset or file, then flags. Validation runs once, on the merged tree.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

import esper_ray
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.host import HOST_FAMILIES
from esper_ray.leyline.config.run import RunConfig, flatten
from esper_ray.leyline.config.system import FREE
from esper_ray.leyline.errors import UserError

Tree = dict[str, Any]
Models = tuple[type[BaseModel], ...]


class ConfigError(UserError, ValueError):
    """Invalid configuration. The message has each key, its value and its constraint."""

    remedy = "Correct the key that the message names; `esper config schema` lists all keys and their limits."


def data_folder(name: str) -> Path:
    """The folder ``configs`` or ``dashboards``: inside an installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: if the installation lacks it.
    """
    package = Path(esper_ray.__file__).parent
    for candidate in (package / "_data" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"this installation of esper-ray has no folder {name!r} beside {package}")


def preset_names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in data_folder("configs").glob("*.yaml"))


def read_preset(name: str) -> Tree:
    """The tree of a preset.

    Raises:
        ConfigError: if there is no preset of that name.
    """
    if name not in preset_names():
        raise ConfigError(unknown_name_message("preset", name, preset_names()))
    return read_file(data_folder("configs") / f"{name}.yaml")


def read_file(path: Path) -> Tree:
    """The tree in a YAML or JSON file.

    Raises:
        ConfigError: if it cannot be read, cannot be parsed, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {path}: {error}") from error
    try:
        tree = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot parse configuration {path}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"configuration {path} must hold a mapping, got {type(tree).__name__}")
    return tree


def merged(tree: Tree, overrides: Mapping[str, Any]) -> Tree:
    """A copy of ``tree`` with the leaves named ``a.b.c`` in ``overrides`` replaced."""
    result: Tree = json.loads(json.dumps(tree, default=str))
    for dotted, value in overrides.items():
        *sections, leaf = dotted.split(".")
        node = result
        for section in sections:
            child = node.setdefault(section, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{section!r} must hold a mapping to set {dotted!r}, got {child!r}")
            node = child
        node[leaf] = value
    return result


def build(tree: Tree, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The validated configuration.

    Raises:
        ConfigError: with the key, the value and the constraint of every problem.
    """
    try:
        return RunConfig.model_validate(merged(tree, overrides or {}))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(dict(problem)) for problem in error.errors())) from None


def load_preset(name: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of a preset.

    Args:
        overrides: dotted keys to values, for example ``{"ppo.lr": 1e-3}``.

    Raises:
        ConfigError: if there is no such preset, or an override is not valid.
    """
    return build(read_preset(name), overrides)


def difference(before: RunConfig, after: RunConfig) -> list[str]:
    """Lines of text, one for each decisive leaf in which two configurations differ."""
    old, new = ({**config.flat(), **flatten(config.system.decisive(), "system.")} for config in (before, after))
    for tree in (old, new):
        for key in FREE:
            del tree[f"system.{key}"]
        for key in [key for key in tree if key.startswith("telemetry.")]:
            del tree[key]
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _explain(problem: Mapping[str, Any]) -> str:
    path, models = _walk(problem["loc"])
    key = ".".join(path) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(path, models[len(path) - 1])}"
    if problem["type"] == "union_tag_invalid":
        family = problem["input"]["family"]
        return f"{key}.family: {unknown_name_message('host family', str(family), list(HOST_FAMILIES))} (got {family!r})"
    message = literal_message(problem, path) or problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and (not path or isinstance(problem["input"], Mapping)):
        return f"{key}: {message}" if path else str(message)  # about several keys, which the message names
    return f"{key}: {message} (got {problem['input']!r})"


def literal_message(problem: Mapping[str, Any], path: Sequence[str]) -> str | None:
    """Message for a text that is no choice of the key ``path``. ``None`` for any other problem."""
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return None
    kind = " ".join(key for key in path if not key.isdecimal()).replace("_", " ")
    return unknown_name_message(kind, problem["input"], re.findall(r"'([^']+)'", problem["ctx"]["expected"]))


def _walk(location: Sequence[str | int]) -> tuple[list[str], list[Models]]:
    """Keys on the path to ``location``, and the candidate sections before and after each key.

    Where a key holds one of several sections, pydantic inserts the name of the selected section after the
    key. That name is not part of the configuration, so it only narrows the candidates.
    """
    path: list[str] = []
    models: list[Models] = [(RunConfig,)]
    for part in location:
        selected = tuple(model for model in models[-1] if _family(model) == part)
        if len(models[-1]) > 1 and selected:
            models[-1] = selected
            continue
        path.append(str(part))
        fields = [model.model_fields.get(path[-1]) for model in models[-1]]
        models.append(_section_types(fields[0].annotation) if len(fields) == 1 and fields[0] else ())
    return path, models


def _family(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("family")
    return field.default if field else None


def _nearest(path: list[str], models: Models) -> str:
    from difflib import get_close_matches

    *parents, leaf = path
    siblings = [name for model in models for name in model.model_fields]
    leaves = {key: key.split(".")[-1] for key in RunConfig().flat() if key != ".".join(path)}
    near = [] if leaf in leaves.values() else get_close_matches(leaf, siblings, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {'.'.join([*parents, near[0]])!r}?"
    near_leaves = get_close_matches(leaf, leaves.values(), n=1, cutoff=0.7)
    owners = [key for key, name in leaves.items() if name in near_leaves]
    return f"; did you mean {owners[0]!r}?" if owners else f" (known here: {', '.join(siblings)})"


def _section_types(annotation: Any) -> Models:
    candidates = (annotation, *get_args(annotation))
    return tuple(model for model in candidates if isinstance(model, type) and issubclass(model, BaseModel))
