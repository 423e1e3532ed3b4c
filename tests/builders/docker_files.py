"""The files of docker/ and configs/cluster/, parsed."""

import re
import shutil
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
UV = shutil.which("uv") or next((str(p) for p in [ROOT / ".tools" / "uv" / "bin" / "uv"] if p.exists()), None)
LOCKED = {
    package["name"]: package.get("version") for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
}
KUBERAY = sorted((DOCKER / "kuberay").glob("*.yaml"))
LAUNCHER = sorted((ROOT / "configs" / "cluster").glob("*.yaml"))


def read(path):
    return yaml.safe_load(path.read_text())


def instructions():
    """(word, rest) of each instruction of the Dockerfile, continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]
