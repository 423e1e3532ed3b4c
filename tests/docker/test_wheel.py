"""Wheel: content, and use in an empty folder."""

import subprocess
import sys
import zipfile

import pytest
from docker_files import ROOT, UV

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(UV is None, reason="no uv on this machine, which builds the wheel"),
]


def test_a_wheel_holds_the_packages_and_works_in_an_empty_folder(tmp_path):
    subprocess.run([UV, "build", "--wheel", "-q", "-o", str(tmp_path / "dist"), str(ROOT)], check=True, timeout=200)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        archive.extractall(tmp_path / "installed")
    assert {top for top in tops if not top.endswith(".dist-info")} == {"esper_ray", "esper_actors", "esper_policies"}
    (tmp_path / "empty").mkdir()
    code = "import esper_ray; from esper_ray import train, grow, load_preset; "
    code += "print(esper_ray.__file__, load_preset('digits').name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "empty",
        env={"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    file, name = done.stdout.split()
    assert file.startswith(str(tmp_path / "installed"))
    assert name == "digits"
