"""Configuration in layers: a preset, then a file, then single keys.

A file that says ``preset: NAME`` holds only what differs from that preset. Every other file is complete, so that a
short file never becomes another experiment by the defaults of the schema. The shipped presets are complete.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.loading import (
    ConfigError,
    ConfigFile,
    build_complete,
    changes,
    layer,
    preset_names,
    read_file,
    read_preset,
)
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import shortened

PRESET = "preset"
"""Key of a file that names its preset."""
MAX_CHANGES = 12
"""Most lines of differences that are printed."""


@dataclass(frozen=True, slots=True)
class LayeredConfig:
    """A configuration with the preset below it."""

    config: RunConfig
    preset: str | None
    """Name of the preset; ``None`` for a complete file or the configuration of a run."""

    def describe(self) -> list[str]:
        """What is in effect: the preset, then a line for each difference from it, of a bounded number.

        Without a preset it is compared with the one of its name, if there is one.
        """
        names = preset_names()
        name = self.preset or (self.config.name if self.config.name in names else None)
        if name is None:
            return [f"configuration {self.config.name}: complete, without a preset"]
        lines = changes(build_complete(read_preset(name)).flat(), self.config.flat())
        count = {0: "without differences", 1: "with 1 difference"}.get(len(lines), f"with {len(lines)} differences")
        shown = [f"  {line if len(line) <= 160 else f'{line[:157]}...'}" for line in lines[:MAX_CHANGES]]
        more = [f"  and {len(lines) - MAX_CHANGES} more"] if len(lines) > MAX_CHANGES else []
        return [f"configuration: preset {name} {count}", *shown, *more]


def load_preset(name: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of a preset.

    Args:
        overrides: dotted keys to values, for example ``{"ppo.lr": 1e-3}``. A mapping is layered over its section.

    Raises:
        ConfigError: if there is no such preset, or an override is not valid.
    """
    return build_complete(read_preset(name), None, overrides)


def load_config(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, preset: str | None = None
) -> RunConfig:
    """The configuration of a YAML or JSON file, over its preset.

    Args:
        overrides: dotted keys to values, as for :func:`load_preset`.
        preset: preset below the file, which may name the same one in its key ``preset``, or none.

    Raises:
        ConfigError: if the file cannot be read or is not valid, names another preset, or is not complete without one.
    """
    return layered(preset, Path(path), overrides or {}).config


def layered(preset: str | None, path: Path | None, overrides: Mapping[str, Any]) -> LayeredConfig:
    """The configuration of a preset, a file over it, and overrides over both.

    Args:
        preset: name of a preset; ``None``: that of the file.
        path: YAML or JSON file; without one there is a preset.
        overrides: dotted keys to values.

    Raises:
        ConfigError: as of :func:`load_config`.
    """
    if path is None:
        if preset is None:
            raise ValueError("a preset or a file is needed")
        return LayeredConfig(load_preset(preset, overrides), preset)
    file, own = _split_preset(read_file(path))
    if preset is not None and own is not None and preset != own:
        raise ConfigError(
            f"{file.place(PRESET)}: preset {own!r} and --preset {shortened(preset)} differ: leave one of them out"
        )
    name = own if preset is None else preset
    if name is None:
        return LayeredConfig(build_complete(file.tree, file, overrides, remedy=_remedy()), None)
    try:
        tree = layer(read_preset(name), file.tree)
    except ConfigError as error:
        raise ConfigError(f"{file.name}: {error}") from None
    return LayeredConfig(build_complete(tree, file, overrides), name)


def preset_of_file(path: Path) -> str | None:
    """The preset that a file names in its key ``preset``; ``None`` if it names none.

    Raises:
        ConfigError: if the file cannot be read, or there is no such preset.
    """
    return _split_preset(read_file(path))[1]


def _split_preset(file: ConfigFile) -> tuple[ConfigFile, str | None]:
    """The file without the key ``preset``, and the value of that key."""
    if PRESET not in file.tree:
        return file, None
    name, names = file.tree[PRESET], preset_names()
    if not isinstance(name, str):
        raise ConfigError(f"{file.place(PRESET)}: preset must be the name of a preset, got {shortened(name)}")
    if name not in names:
        raise ConfigError(f"{file.place(PRESET)}: {unknown_name_message('preset', name, names)}")
    return replace(file, tree={key: value for key, value in file.tree.items() if key != PRESET}), name


def _remedy() -> str:
    return (
        f"; say `preset: NAME` in it, or --preset NAME, and it holds only what differs (presets: "
        f"{', '.join(preset_names())})"
    )


def file_schema() -> dict[str, Any]:
    """JSON schema of a configuration file: that of a run, and the key ``preset``."""
    schema = RunConfig.model_json_schema()
    preset = {
        "type": "string",
        "enum": preset_names(),
        "title": "Preset",
        "description": "preset that supplies the keys that the file leaves out; a file without it is complete",
    }
    complete = {"required": list(schema["properties"])}
    return schema | {
        "properties": {PRESET: preset, **schema["properties"]},
        "anyOf": [{"required": [PRESET]}, complete],
    }
