"""Build steps of the image, in a fresh environment on this machine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from docker_files import ROOT, instructions

UV = shutil.which("uv") or next((str(p) for p in [ROOT / ".tools" / "uv" / "bin" / "uv"] if p.exists()), None)

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(UV is None, reason="no uv on this machine, which the image's steps are made with"),
]


def run(command, folder, **environment):
    path = f"{Path(UV).parent}:{os.environ['PATH']}"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON", "VIRTUAL_ENV", "UV_"))}
    return subprocess.run(
        command, cwd=folder, env=clean | {"PATH": path} | environment, capture_output=True, text=True, check=False
    )


def copied_before(word):
    """Sources of the COPY instructions before the step that installs ``word``."""
    sources = []
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            sources += rest.split()[:-1]
        if name == "RUN" and f"install.sh {word}" in rest:
            return sources
    raise AssertionError(word)


def copy_sources(sources, folder):
    for source in sources:
        source_path, copied_path = ROOT / source, folder / Path(source).name
        if source_path.is_dir():
            shutil.copytree(source_path, copied_path, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(source_path, copied_path)


@pytest.fixture
def place(tmp_path):
    """Folder of the environment: six gigabytes, which pytest would keep for three sessions."""
    yield tmp_path / "opt"
    shutil.rmtree(tmp_path / "opt", ignore_errors=True)


def test_esper_trains_in_the_environment_of_the_build_steps(tmp_path, place):
    source, elsewhere = tmp_path / "src", tmp_path / "home"
    source.mkdir()
    elsewhere.mkdir()
    environment = {"VARIANT": "cuda", "UV_PROJECT_ENVIRONMENT": str(place), "UV_LINK_MODE": "copy"}
    for step in ("dependencies", "project"):
        copy_sources(copied_before(step), source)
        done = run(["sh", "install.sh", step], source, **environment)
        if "error sending request" in done.stderr:
            pytest.skip("the package registry cannot be reached")
        assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(source)  # the package is installed, not linked
    esper = str(place / "bin" / "esper")
    assert run([esper, "version"], elsewhere).stdout.startswith("esper-ray ")
    small = ["--envs", "1", "--episode-length", "3", "--memory-size", "16", "--rounds", "1"]
    trained = run([esper, "train", "ppo", "--serial", "--preset", "digits", *small], elsewhere)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert len(list((elsewhere / "runs").glob("*/rounds.csv"))) == 1
    assert run([str(place / "bin" / "python"), "-c", "import pytest"], elsewhere).returncode != 0  # nothing of dev


@pytest.mark.parametrize(
    ("variant", "step", "message"),
    [("gpu", "project", "VARIANT is cuda or cpu, got 'gpu'"), ("cuda", "all", "the step is dependencies or project")],
)
def test_unknown_variants_and_steps_are_refused(tmp_path, variant, step, message):
    done = run(["sh", str(ROOT / "docker" / "install.sh"), step], tmp_path, VARIANT=variant)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_cpu_variant_has_the_locked_versions_without_cuda(tmp_path):
    """A fake uv records its arguments."""
    copy_sources(["uv.lock"], tmp_path)
    fake = tmp_path / "bin" / "uv"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@" >> asked\n')
    fake.chmod(0o755)
    path = f"{fake.parent}:{os.environ['PATH']}"
    script = str(ROOT / "docker" / "install.sh")
    environment = {"PATH": path, "VARIANT": "cpu", "UV_PROJECT_ENVIRONMENT": "/opt/esper"}
    done = subprocess.run(
        ["sh", script, "dependencies"], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    sync, install = (tmp_path / "asked").read_text().splitlines()
    left_out = set(sync.split("--no-install-package ")[1:])
    names = {name.strip() for name in left_out}
    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13"} <= names
    assert "ray" not in names
    from docker_files import LOCKED

    assert f"torch=={LOCKED['torch']} torchvision=={LOCKED['torchvision']}" in install
