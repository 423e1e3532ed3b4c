"""Packages with entry points, in a folder on the path, as pip would install them."""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OWN = ("own_reward", "own_host", "own_blueprint")


def write_package(
    folder: Path, package: str, module: str, source: str, group: str, points: Mapping[str, str], version: str = "1.2"
) -> None:
    """Files of a package that offers ``points`` in ``group``."""
    (folder / f"{module}.py").write_text(source)
    described = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (described / "top_level.txt").write_text(f"{module}\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (described / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    sys.modules.pop(module, None)


def write_example(folder: Path, name: str) -> None:
    """The package ``examples/<name>``, as its project file describes it."""
    project = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())
    ((group, points),) = project["project"]["entry-points"].items()
    (included,) = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    source = (EXAMPLES / name / included).read_text()
    described = project["project"]
    write_package(folder, described["name"], Path(included).stem, source, group, points, described["version"])


def install_examples(folder: Path, patch: pytest.MonkeyPatch, names: tuple[str, ...] = OWN) -> None:
    """Install the examples of own parts in ``folder`` for a test."""
    folder.mkdir(exist_ok=True)
    for name in names:
        write_example(folder, name)
    patch.syspath_prepend(str(folder))
