"""Loading of presets, files and single keys into one validated :class:`~esper_ray.leyline.config.run.RunConfig`.

Trees are layered key by key, see :mod:`esper_ray.leyline.config.layers`; validation runs once, on the merged tree.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

import esper_ray
from esper_ray.leyline.config.base import problem_message, unknown_name_message, with_value
from esper_ray.leyline.config.blueprint_names import placed_blueprints
from esper_ray.leyline.config.documents import MAX_BYTES, DocumentError, parse_document
from esper_ray.leyline.config.host import HOST_FAMILIES
from esper_ray.leyline.config.reward import RECORDED
from esper_ray.leyline.config.run import RunConfig, flatten
from esper_ray.leyline.config.system import FREE
from esper_ray.leyline.errors import UserError, shortened

Tree = dict[str, Any]
Models = tuple[type[BaseModel], ...]
MAX_PROBLEMS = 20
"""Most problems in one message."""
BLUEPRINTS_KEY = "growth.blueprints"
MAX_PATH = 300
"""Most characters of a path in a message."""


class ConfigError(UserError, ValueError):
    """Invalid configuration. The message has each key, its value and its constraint."""

    remedy = "Correct the key that the message names; `esper config schema` lists all keys and their limits."


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Tree of a configuration file, with the line of every key."""

    name: str
    tree: Tree
    lines: Mapping[str, int]

    def place(self, key: str) -> str:
        """File and line of a dotted key, or of the nearest existing section above it."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{self.name}:{self.lines[key]}" if key else self.name


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
    return read_file(data_folder("configs") / f"{name}.yaml").tree


def read_file(path: Path) -> ConfigFile:
    """The content of a YAML or JSON file.

    Raises:
        ConfigError: if it is not a regular file, cannot be read or parsed, is too large, or is not a mapping.
    """
    return parse(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The content of a configuration file. A pipe or device is refused without reading it.

    Raises:
        ConfigError: if it is not a regular file, cannot be read, or has more than ``MAX_BYTES`` bytes.
    """
    name = str(path) if len(str(path)) < MAX_PATH else f"{str(path)[:MAX_PATH]}..."
    try:
        with open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"cannot read configuration {name}: it is a pipe or device, not a file")
            if status.st_size > MAX_BYTES:
                raise ConfigError(
                    f"cannot read configuration {name}: {status.st_size:,} bytes exceed the {MAX_BYTES:,} bytes that a "
                    "configuration may have"
                )
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read configuration {name}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"cannot read configuration {shortened(name)}: {error}") from error


def parse(content: bytes, name: str) -> ConfigFile:
    """The content of a file; JSON if ``name`` ends so, else YAML.

    Raises:
        ConfigError: if it cannot be parsed, or is not a mapping.
    """
    try:
        document = parse_document(content, is_json=name.endswith(".json"))
    except DocumentError as error:
        place = name if error.line is None else f"{name}:{error.line}"
        raise ConfigError(f"cannot parse configuration {place}: {error}") from None
    if not isinstance(document.tree, dict):
        present = "nothing" if document.tree is None else type(document.tree).__name__
        raise ConfigError(f"configuration {name} must hold a mapping, got {present}")
    return ConfigFile(name, document.tree, document.lines)


def merged(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> Tree:
    """A copy of ``tree`` with the keys ``a.b.c`` in ``overrides`` set. A mapping is layered over its section.

    Raises:
        ConfigError: if an override is below a leaf, or two overrides give one key different values.
    """
    return layer(tree, nested(overrides))


def nested(overrides: Mapping[str, Any]) -> Tree:
    """``{"a.b": 1, "a": {"c": 2}}`` as ``{"a": {"b": 1, "c": 2}}``.

    Raises:
        ConfigError: if a key is given twice, with different values.
    """
    result: Tree = {}
    for dotted, value in overrides.items():
        above: Any = value
        for part in reversed(dotted.split(".")):
            above = {part: above}
        _refuse_overlap(result, above, "")
        result = layer(result, above)
    return result


def _refuse_overlap(first: Any, second: Any, path: str) -> None:
    """
    Raises:
        ConfigError: if both hold a key with different values.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in first.keys() & second.keys():
            _refuse_overlap(first[key], second[key], f"{path}.{key}" if path else str(key))
    elif type(first) is not type(second) or first != second:
        raise ConfigError(f"{path!r} is given twice, as {shortened(first)} and as {shortened(second)}")


def layer(below: Mapping[str, Any], above: Mapping[str, Any], path: str = "") -> Tree:
    """A copy of ``below`` with the keys of ``above``, section by section.

    A host of another family replaces the one below: the families have different keys. A mapping of blueprints puts own
    ones in the places of those in the list below.

    Raises:
        ConfigError: if ``above`` has a mapping where ``below`` has a value.
    """
    result = {key: layer(value, {}) if isinstance(value, Mapping) else value for key, value in below.items()}
    if path == "host" and "family" in above and above["family"] != below.get("family", above["family"]):
        result = {}
    for key, value in above.items():
        inner = f"{path}.{key}" if path else str(key)
        if not isinstance(value, Mapping):
            result[key] = value
            continue
        present = result.get(key, {})
        if inner == BLUEPRINTS_KEY and isinstance(present, list | tuple):
            result[key] = placed_blueprints(present, value)
            continue
        if not isinstance(present, Mapping):
            dotted = ".".join([inner, *map(str, [*value][:1])])
            raise ConfigError(f"{key!r} must hold a mapping to set {dotted!r}, got {shortened(present)}")
        result[key] = layer(present, value, inner)
    return result


def build(tree: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The validated configuration. Keys that ``tree`` leaves out have the defaults of the schema.

    Raises:
        ConfigError: with the key, the value and the constraint of every problem.
    """
    config, problems = _validated(merged(tree, overrides or {}))
    if config is None:
        raise ConfigError(explained(map(_explain, problems)))
    return config


def build_complete(
    tree: Mapping[str, Any],
    file: ConfigFile | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    remedy: str = "",
    written: object = None,
    recorded: bool = False,
) -> RunConfig:
    """The validated configuration of a tree that must hold every key.

    Args:
        file: what the tree, or its top layer, was read from; problems have its places.
        overrides: keys that are set over it. Their problems have no place. They complete a host of another family,
            and nothing else.
        remedy: ends the message about missing keys.
        written: the tree as its writer recorded it elsewhere. A key that this tree lacks too is newer than the file and
            has its default.
        recorded: whether a run or a sweep has recorded the tree; packages of its parts may be missing here then.

    Raises:
        ConfigError: with the place, the key, the value and the constraint of every problem, or with the missing keys.
    """
    over = nested(overrides or {})
    whole = layer(tree, over)
    config, problems = _validated(whole, recorded=recorded or written is not None)
    unknown = [problem for problem in problems if problem["type"] in ("extra_forbidden", "union_tag_invalid")]
    missing = [key for key in leaf_keys(whole) if not _holds(whole if key.startswith("host.") else tree, key)]
    if isinstance(written, Mapping):
        missing = [key for key in missing if _holds(written, key)]
    if missing and not unknown:
        name = "the configuration" if file is None else file.name
        names = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise ConfigError(f"{name} is not complete: {names} {'is' if len(missing) == 1 else 'are'} missing{remedy}")
    if config is None:
        shown = unknown if missing else problems
        raise ConfigError(explained(_placed(problem, file, over) for problem in shown))
    return config


def _validated(tree: Tree, *, recorded: bool = False) -> tuple[RunConfig | None, list[dict[str, Any]]]:
    """The configuration, or its problems as pydantic describes them.

    Args:
        recorded: whether a run has recorded it; packages of its parts may be missing here then.
    """
    try:
        return RunConfig.model_validate(tree, context=RECORDED if recorded else None), []
    except ValidationError as error:
        return None, [dict(problem) for problem in error.errors()]


def leaf_keys(tree: Mapping[str, Any], section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Dotted names of the keys of a complete configuration with the host family of ``tree``."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        models = _section_types(field.annotation)
        if len(models) > 1:
            host = tree.get(name)
            family = host.get("family") if isinstance(host, Mapping) else None
            models = tuple(model for model in models if _family(model) == family) or models[:1]
        keys += leaf_keys({}, models[0], f"{prefix}{name}.") if models else [prefix + name]
    return keys


def _holds(tree: Any, dotted: str) -> bool:
    """Whether ``tree`` has a value for a dotted key or a section above it. The value can be ``null``."""
    for part in dotted.split("."):
        if not isinstance(tree, Mapping):
            return True
        if part not in tree:
            return False
        tree = tree[part]
    return True


def difference(before: RunConfig, after: RunConfig) -> list[str]:
    """Lines of text, one for each decisive leaf in which two configurations differ."""
    old, new = ({**config.flat(), **flatten(config.system.decisive(), "system.")} for config in (before, after))
    for tree in (old, new):
        for key in FREE:
            del tree[f"system.{key}"]
        for key in [key for key in tree if key.startswith("telemetry.")]:
            del tree[key]
    return changes(old, new)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each leaf in which two flat trees differ. A leaf that one lacks is ``None``."""
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def explained(lines: Iterable[str]) -> str:
    """Problems as lines of one message, with a bounded number of them."""
    every = list(dict.fromkeys(lines))
    more = [f"and {len(every) - MAX_PROBLEMS} more problems"] if len(every) > MAX_PROBLEMS else []
    return "\n".join([*every[:MAX_PROBLEMS], *more])


def _placed(problem: Mapping[str, Any], file: ConfigFile | None, over: Tree) -> str:
    """A problem with its place, unless a key set over the file causes it."""
    path, _ = _walk(problem["loc"])
    if file is None or (path and _holds(over, ".".join(path))):
        return _explain(problem)
    return f"{file.place('.'.join(path))}: {_explain(problem)}"


def _explain(problem: Mapping[str, Any]) -> str:
    path, models = _walk(problem["loc"])
    key = ".".join(path) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {shortened(key)}{_nearest(path, models[len(path) - 1])}"
    if problem["type"] == "union_tag_invalid":
        family = problem["input"]["family"]
        choices = unknown_name_message("host family", str(family), list(HOST_FAMILIES))
        return with_value(f"{key}.family: {choices}", family)
    message = problem_message(problem, path)
    if problem["type"] == "value_error" and (not path or isinstance(problem["input"], Mapping)):
        return f"{key}: {message}" if path else message  # about several keys, which the message names
    return with_value(f"{key}: {message}", problem["input"])


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
    if "." in leaf:
        return f": write it as a section, {leaf.partition('.')[0]}: {{{leaf.partition('.')[2]}: ...}}"
    leaves = {key: key.split(".")[-1] for key in leaf_keys({})}
    near = [] if leaf in leaves.values() else get_close_matches(leaf, siblings, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {'.'.join([*parents, near[0]])!r}?"
    near_leaves = get_close_matches(leaf, leaves.values(), n=1, cutoff=0.7)
    owners = [key for key, name in leaves.items() if name in near_leaves and key != ".".join(path)]
    return f"; did you mean {owners[0]!r}?" if owners else f" (known here: {', '.join(siblings)})"


def _section_types(annotation: Any) -> Models:
    candidates = (annotation, *get_args(annotation))
    return tuple(model for model in candidates if isinstance(model, type) and issubclass(model, BaseModel))
