"""``ray job submit`` with ``uv run``: environments from the shipped lock file."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from head_builders import running_head, variables

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or next((str(p) for p in [ROOT / ".tools" / "uv" / "bin" / "uv"] if p.exists()), None)

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(UV is None, reason="no uv on this machine, which these jobs are run with"),
]
SMALL = ["--rounds", "1", "--envs", "1", "--episode-length", "3", "--memory-size", "16", "--ppo-epochs", "1"]


def environments_of_actors(near):
    """Folders of the virtual environments of the actors that work in ``near`` or below at this moment."""
    folders = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith("ray::") and process.cwd().startswith(str(near)):
                title = process.cmdline()[0]
                if "EnvironmentActor" in title or "LearnerActor" in title:
                    folders.add(process.environ().get("VIRTUAL_ENV", "none"))
    return folders


def test_uv_run_creates_an_environment_on_the_cluster_and_trains(tmp_path):
    """Driver and actors run in the environment of the shipped lock file, not in that of the head."""
    path = f"{Path(UV).parent}:{os.environ['PATH']}"
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1", "PATH": path}
    job = ["uv", "run", "--no-dev", "esper", "train", "ppo", "--preset", "digits", *SMALL]
    job += ["--telemetry-dir", str(tmp_path / "runs")]
    log, seen = tmp_path / "log", set()
    with running_head(environment) as head, log.open("w") as output:
        submit = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", head.address]
        words = [*submit, "--working-dir", str(ROOT), "--", *job]
        with subprocess.Popen(words, env=variables(head.environment), stdout=output, stderr=output) as process:
            while process.poll() is None:
                seen |= environments_of_actors(head.folder)
                time.sleep(0.2)
    log_text = log.read_text()
    if "error sending request" in log_text:
        pytest.skip("the package registry cannot be reached")
    assert process.returncode == 0, log_text[-4000:]
    assert f":{head.port}: environment actors" in log_text  # it has joined this head
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "rounds.csv").read_text().count("\n") == 2
    (place,) = seen
    assert place.startswith(str(head.folder)), place
