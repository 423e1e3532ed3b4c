"""Ray head with dashboard in its own processes, on free ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil

START_SECONDS = 180
TOKEN = "0123456789abcdef" * 4
TOKEN_MODE = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")


@dataclass(frozen=True)
class Head:
    """Address of a head's dashboard, and the environment that a client needs."""

    address: str
    environment: dict[str, str]
    port: int
    """Port of its control store, which drivers connect to."""
    folder: Path
    """Folder of its sessions: logs, sockets, and packages of jobs."""

    def submit(self, *arguments: str, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        """``esper submit --address ... <arguments>`` in its own process."""
        words = ["submit", "--address", self.address, *arguments]
        return run_esper(words, self.environment | environment, timeout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Started process of ``esper submit --address ... <arguments>``."""
        words = ["submit", "--address", self.address, *arguments]
        return subprocess.Popen(
            esper(words), env=variables(self.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def esper(words):
    """The command ``esper <words>``."""
    return [sys.executable, "-m", "esper_ray.cli.main", *words]


def variables(environment):
    """Variables of this process, with Ray's replaced by ``environment``."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | environment


def run_esper(words, environment, timeout=120):
    """Result of ``esper <words>`` in its own process, with Ray's variables from ``environment``."""
    return subprocess.run(
        esper(words), env=variables(environment), capture_output=True, text=True, timeout=timeout, check=False
    )


def free_ports(count: int) -> list[int]:
    """Different free ports, ``count`` of them."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


@contextmanager
def running_head(environment: dict[str, str]) -> Iterator[Head]:
    """A reachable head, which is ended with all its processes."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    folder = Path(tempfile.mkdtemp(prefix="head", dir="/tmp"))  # short: Ray's sockets lie below it
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))}
    binaries = Path(sys.executable).parent
    settings = {"PATH": f"{binaries}:{os.environ['PATH']}", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    settings |= {"RAY_worker_niceness": "0"}
    words = [f"--{name}={port}" for name, port in ports.items()]
    words += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--include-dashboard=true"]
    words += [f"--temp-dir={folder / 'ray'}", "--num-cpus=2", "--disable-usage-stats", "--block"]
    log = folder / "head.log"
    process = orphan([str(binaries / "ray"), "start", "--head", *words], inherited | settings | environment, log)
    try:
        head = Head(f"http://127.0.0.1:{ports['dashboard-port']}", environment, ports["port"], folder)
        wait_until_reachable(head, process, log)
        yield head
    finally:
        with suppress(psutil.NoSuchProcess):
            process.terminate()  # with --block Ray ends its other processes
        try:
            process.wait(60)
        except psutil.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def orphan(words, environment, log):
    """Process without parent, since Ray looks for ``uv run`` among the ancestors of a head."""
    script = f'setsid "$@" > {log} 2>&1 & echo $!'
    done = subprocess.run(["sh", "-c", script, "sh", *words], env=environment, stdout=subprocess.PIPE, check=True)
    return psutil.Process(int(done.stdout))


def wait_until_reachable(head, process, log):
    """Wait until the dashboard answers, with or without a refusal."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.is_running():
        try:
            urlopen(f"{head.address}/api/version", timeout=5).close()
            return
        except HTTPError:
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no head at {head.address}: {log.read_text()[-2000:]}")
