"""Manifest of a run: configuration, versions, code, seeds, machine."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.observation import schema_hash
from esper_ray.leyline.plugins.origins import recorded_origins
from esper_ray.leyline.process.credentials import without_credentials

MEASURED_PACKAGES = ("esper-ray", "ray", "torch", "numpy", "gymnasium", "pydantic")


def manifest(run_id: str, config: RunConfig, started: datetime, command: Sequence[str]) -> dict[str, Any]:
    """Manifest of a run: configuration, versions, code, seeds, hardware, parts of other packages."""
    return {
        "run_id": run_id,
        "status": "running",
        "started": started.isoformat(timespec="seconds"),
        "updated": started.isoformat(timespec="seconds"),
        "command": [without_credentials(word) for word in command],
        "config": config.model_dump(mode="json"),
        "config_sha256": config.digest(),
        "observation_schema": schema_hash(),
        "versions": {"python": platform.python_version()} | {name: package_version(name) for name in MEASURED_PACKAGES},
        "git": code_version(),
        "seeds": {"run": config.seed, "episode": "derived from (run seed, round, environment)"},
        "hardware": hardware(),
        **recorded_origins(config),
    }


def package_version(package: str) -> str | None:
    """Version of an installed distribution, ``None`` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def code_version() -> dict[str, Any] | None:
    """Git commit of the code, and whether files differ from it; ``None`` without git."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
        return answer.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """Host, platform, processor, CPUs, memory in GiB and GPUs of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus: list[str] = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpus": gpus,
    }
