"""Wheel: content, and use in an empty folder and beside foreign packages."""

import re
import subprocess
import sys
import urllib.request
import zipfile

import pytest
from docker_files import ROOT, UV

from esper_ray.karn.overwatch.routes import PAGES

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(UV is None, reason="no uv on this machine, which builds the wheel"),
]
IMPORTS = "import esper_ray; from esper_ray import train, grow, load_preset; "
IMPORTS += "print(esper_ray.__file__, load_preset('digits').name)"
SHORT = ["--rounds", "1", "--envs", "1", "--episode-length", "3", "--memory-size", "16", "--ppo-epochs", "1"]
SHORT += ["--set", "training.steps_per_epoch=2", "--telemetry-dir", "runs"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--wheel", "-q", "-o", str(folder), str(ROOT)], check=True, timeout=200)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the packages of the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed, folder, *words):
    """Output of Python in ``folder``, with the packages of the wheel."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    ).stdout


def test_a_wheel_holds_our_three_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"esper_ray", "esper_actors", "esper_policies"}


def test_a_wheel_holds_the_bundles_that_ship_and_their_cards(installed, tmp_path):
    code = "from esper_policies.bundle import load_bundle, pretrained_names, pretrained_path as path; "
    code += "print(*(f'{name} {load_bundle(path(name)).manifest.parameters}' for name in pretrained_names()))"
    name, parameters = run(installed, tmp_path, "-c", code).split()
    assert name == "tamiyo"
    assert int(parameters) > 0
    assert (installed / "esper_policies" / "pretrained" / "tamiyo.md").is_file()


def test_a_wheel_works_in_an_empty_folder(installed, tmp_path):
    file, name = run(installed, tmp_path, "-c", IMPORTS).split()
    assert file.startswith(str(installed))
    assert name == "digits"


def test_a_wheel_works_beside_foreign_packages_of_our_folder_names(installed, tmp_path):
    for name in ("actors", "policies", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a foreign package')\n")
    file, name = run(installed, tmp_path, "-c", IMPORTS).split()
    assert file.startswith(str(installed))
    assert name == "digits"
    run(installed, tmp_path, "-m", "esper_ray", "train", "ppo", "--serial", *SHORT)
    assert (next((tmp_path / "runs").iterdir()) / "rounds.csv").is_file()


@pytest.fixture(scope="module")
def trained(installed, tmp_path_factory):
    """A folder with a run that the wheel has trained, and its name."""
    folder = tmp_path_factory.mktemp("trained")
    run(installed, folder, "-m", "esper_ray", "train", "ppo", "--serial", *SHORT, "--run-id", "short")
    return folder


def test_a_wheel_writes_equal_reports_that_ask_nobody(installed, trained):
    for name in ("first.html", "second.html"):
        run(installed, trained, "-m", "esper_ray", "report", "runs/short", "-o", name)
    first, second = ((trained / name).read_bytes() for name in ("first.html", "second.html"))
    assert first == second
    assert first.startswith(b"<!DOCTYPE html>")
    assert re.findall(rb"""(?:src|href)=["'](?!#|data:)[^"']*""", first) == []


def test_a_wheel_serves_every_page_with_its_files_and_names_no_other_host(installed, trained):
    words = [sys.executable, "-m", "esper_ray", "overwatch", "runs", "--port", "0"]
    environment = {"PYTHONPATH": str(installed)}
    with subprocess.Popen(words, cwd=trained, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split()[-1].rstrip("/")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            files = set()
            for path, (_, kind) in PAGES.items():
                if kind not in (None, "run"):
                    continue
                shown = path.format(name="short", episode=0, seed="r0c0-1", number=1)
                with opener.open(f"{address}{shown}", timeout=60) as answer:
                    text = answer.read().decode()
                links = re.findall(r"""(?:src|href)="([^"]*)""", text)
                assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in links), links
                files |= {link for link in links if link.startswith("/static/")}
            assert len(files) > 10
            for file in files:
                with opener.open(f"{address}{file}", timeout=60) as answer:
                    assert answer.read()
        finally:
            server.terminate()
