"""Configuration of a run: ``config.yaml``, and its copy in the manifest.

An extension changes the manifest first. A crash before ``config.yaml`` is changed leaves an extension that has not
happened: the file counts, and the next writer withdraws the extension.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from esper_ray.leyline.config.loading import ConfigError, build_complete, changes, read_file
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.process.credentials import without_credentials
from esper_ray.nissa.runs.run_files import RunDirectoryError

CONFIG = "config.yaml"
_EXTENDED = ("ppo.rounds", "ppo.schedule_rounds")
"""Keys that an extension changes."""
_SHOWN = 5
"""Differences that a message lists."""


def read_config(folder: Path, manifest: Mapping[str, Any]) -> RunConfig:
    """Configuration of the run in ``folder``.

    Args:
        manifest: content of its manifest.

    Raises:
        RunDirectoryError: if it cannot be read, or differs from that in the manifest, with the differences.
    """
    recorded = manifest["config"]
    try:
        file = read_file(folder / CONFIG)
        config = build_complete(file.tree, file, written=recorded)
    except ConfigError as error:
        raise RunDirectoryError(f"configuration of {folder} cannot be used: {error}") from error
    try:
        lines = changes(build_complete(recorded, written=recorded).flat(), config.flat())
    except ConfigError as error:
        raise RunDirectoryError(f"{folder / 'manifest.json'}: its config cannot be used: {error}") from error
    if lines and not interrupted_extension(config, manifest):
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise RunDirectoryError(
            f"{folder / CONFIG} is not the configuration in manifest.json: {', '.join(lines[:_SHOWN])}{more}; change "
            "it back, or copy both files again from where the run was written"
        )
    return config


def interrupted_extension(config: RunConfig, manifest: Mapping[str, Any]) -> bool:
    """Whether the manifest holds an extension of ``config`` that a crash has interrupted."""
    extensions = manifest.get("extensions")
    last = extensions[-1] if isinstance(extensions, list) and extensions else None
    if not isinstance(last, Mapping):
        return False
    try:
        recorded = build_complete(manifest["config"], written=manifest["config"])
    except ConfigError:
        return False
    before, after = config.flat(), recorded.flat()
    different = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    rounds = [config.ppo.rounds, recorded.ppo.rounds]
    return "ppo.rounds" in different <= set(_EXTENDED) and last.get("rounds") == rounds and rounds[0] < rounds[1]


def without_extension(config: RunConfig, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest without an extension that a crash has interrupted."""
    if not interrupted_extension(config, manifest):
        return dict(manifest)
    return {**manifest, "config": config.model_dump(mode="json"), "extensions": manifest["extensions"][:-1]}


def with_extension(
    manifest: Mapping[str, Any], before: RunConfig, config: RunConfig, after_round: int, command: Sequence[str]
) -> dict[str, Any]:
    """The manifest of a run that is extended.

    Args:
        before: the configuration until now.
        config: one with more rounds.
        after_round: number of finished rounds.
        command: command line of the extension.
    """
    tree = without_extension(before, manifest)
    extension = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [without_credentials(word) for word in command],
        "after_round": after_round,
        "rounds": [before.ppo.rounds, config.ppo.rounds],
    }
    return tree | {"config": config.model_dump(mode="json"), "extensions": [*tree.get("extensions", []), extension]}
