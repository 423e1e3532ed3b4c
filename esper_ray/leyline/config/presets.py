"""Canonical form of shipped presets and sweeps: one comment, then every key in model order.

``python -m esper_ray.leyline.config.presets`` lists the files in ``configs/`` that are in another form and exits 1 if
there are any. With ``--write`` it rewrites them, so that a new key is one edit, in the model.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from esper_ray.leyline.config.documents import dump_yaml
from esper_ray.leyline.config.loading import ConfigError, build, data_folder, read_file
from esper_ray.leyline.config.sweep import sweep_config


def complete_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a preset with all keys.

    Raises:
        ConfigError: if it is not valid.
    """
    return build(dict(tree)).model_dump(mode="json")


def complete_sweep(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a sweep with all keys; ``reward_modes: all`` stays as it is.

    Raises:
        ConfigError: if it is not valid.
    """
    whole = sweep_config(tree).model_dump(mode="json")
    return {key: value if isinstance(value, dict) else tree.get(key, value) for key, value in whole.items()}


def canonical(path: Path, complete: Callable[[Mapping[str, Any]], dict[str, Any]]) -> str:
    """The text of the file ``path`` in canonical form.

    Raises:
        ConfigError: if the file is not valid, or has comments below its first key.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((index for index, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    for number, line in enumerate(lines[first:], first + 1):
        if line.lstrip().startswith("#") or " #" in line:
            raise ConfigError(f"{path}:{number}: comments belong at the top of the file, got {line.strip()!r}")
    comment = "".join(f"{line}\n" for line in lines[:first] if line)
    try:
        tree = complete(read_file(path).tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return comment + dump_yaml(tree)


def canonical_texts(folder: Path) -> dict[Path, str]:
    """The canonical text of every preset in ``folder`` and of every sweep in ``folder/sweeps``.

    Raises:
        ConfigError: as :func:`canonical` does.
    """
    presets = {path: canonical(path, complete_preset) for path in sorted(folder.glob("*.yaml"))}
    return presets | {path: canonical(path, complete_sweep) for path in sorted(folder.glob("sweeps/*.yaml"))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the files, or rewrite them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="esper_ray.leyline.config.presets", description="Check presets and sweeps.")
    parser.add_argument("--write", action="store_true", help="rewrite the files that are not in canonical form")
    parser.add_argument("--folder", type=Path, help="folder of the presets; default: configs of this installation")
    options = parser.parse_args(arguments)
    try:
        texts = canonical_texts(options.folder or data_folder("configs"))
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    differing = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in differing:
        if options.write:
            path.write_text(texts[path], encoding="utf-8")
        sys.stdout.write(f"{path}: {'rewritten' if options.write else 'not in canonical form; --write rewrites it'}\n")
    return 1 if differing and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
