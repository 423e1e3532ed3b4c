"""Locked packages of the installation without extras, and of the extras."""

import tomllib

import pytest
from docker_files import ROOT

LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
PACKAGES: dict[str, list[dict]] = {}
for _package in LOCK["package"]:
    PACKAGES.setdefault(_package["name"], []).append(_package)


def installed(extras=()):
    """Names of all packages that are installed with ``extras``, on any platform."""
    seen, waiting = set(), [("esper-ray", "")] + [("esper-ray", extra) for extra in extras]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for package in PACKAGES[name]:
            wanted = (
                package.get("optional-dependencies", {}).get(extra, []) if extra else package.get("dependencies", [])
            )
            for dependency in wanted:
                waiting += [(dependency["name"], each) for each in ("", *dependency.get("extra", ()))]
    return {name for name, _ in seen}


def test_without_extras_nothing_replaces_urllib3():
    names = installed()
    assert {"torch", "ray", "gymnasium"} <= names
    assert names & {"grafana-client", "niquests", "urllib3-future"} == set()


def test_the_extra_grafana_brings_the_client_and_the_image_has_it():
    assert {"grafana-client", "niquests"} <= installed(["grafana"])
    script = (ROOT / "docker" / "install.sh").read_text()
    assert script.count("uv sync --frozen --no-dev") == script.count("uv sync --frozen --no-dev --extra grafana") == 2


def test_the_extra_karn_brings_textual_and_the_image_has_it():
    assert "textual" in installed(["karn"])
    assert "textual" not in installed()
    script = (ROOT / "docker" / "install.sh").read_text()
    assert script.count("uv sync --frozen") == script.count("--extra karn") == 2


EXTRAS = ["grafana", "karn", "lightning", "mlflow", "tensorboard", "transformers", "wandb"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_environment_of_developers_has_every_extra(extra):
    (package,) = PACKAGES["esper-ray"]
    (ours,) = (entry for entry in package["dev-dependencies"]["dev"] if entry["name"] == "esper-ray")
    assert extra in ours["extra"]
    assert package["metadata"]["provides-extras"] == EXTRAS
