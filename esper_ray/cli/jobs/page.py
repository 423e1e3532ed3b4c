"""The page about a run (``--overwatch``): a server beside the run, as a process of lower priority.

The server is ``esper overwatch FOLDER``, in a session of its own. It ends with the command that has started it; with
``--keep`` it serves until Ctrl-C. If the command is killed, it stays and shows that.
"""

import getpass
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

from rich.console import Console

from esper_actors.training.stop_request import StopRequest
from esper_ray.cli.jobs.watched import command_line
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.durable import changing
from esper_ray.nissa.runs.observer import RunContext, RunObserver

HOST, PORT = "127.0.0.1", 8080
"""Address of the page, unless another port is chosen."""
NICENESS = 10
"""How much nicer the server is than this process."""
START_SECONDS = 60.0
"""Longest wait for the first connection."""
END_SECONDS = 5.0
"""Time that the server has to end before it is killed."""
POLL_SECONDS = 0.05


class PageServerError(UserError):
    """A server of the page that cannot start: a taken port, a missing package."""

    remedy = "Choose another port by --overwatch-port, or leave --overwatch out."


def free_port_of_page(port: int | None) -> int:
    """The port of the page: ``port``, 8080 by default, or a free one for 0.

    Raises:
        PageServerError: if it is taken.
    """
    wanted = PORT if port is None else port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError as error:
            reason = error.strerror or str(error)
            raise PageServerError(
                f"--overwatch: port {wanted} of {HOST} is not free ({reason}); --overwatch-port 0 takes a free one"
            ) from None
        return int(probe.getsockname()[1])


class PageServer:
    """Server of the page, to be used in a ``with`` statement around the run."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        keep: bool = False,
        command: Sequence[str] | None = None,
        console: Console | None = None,
    ) -> None:
        """
        Args:
            folder: the runs or sweeps that are shown; it is made if it does not exist.
            port: a free port.
            keep: whether the page is served after the run, until Ctrl-C.
            command: command of the server, for tests.
        """
        self._folder, self.port, self._keep = folder, port, keep
        self._command = command or command_line(["overwatch", str(folder), "--port", str(port)])
        self._console = console or Console()
        self.address = f"http://{HOST}:{port}"
        """Address of the page of all runs."""

    def __enter__(self) -> Self:
        """Start the server, and print its address.

        Raises:
            PageServerError: if it does not start, with what it has printed last.
        """
        with changing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._output = TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
            os.setpriority(os.PRIO_PROCESS, self._process.pid, niceness)
            self._wait_for_start()
        except BaseException:
            self._end()
            raise
        self._say(f"page {self.address}/")
        tunnel = tunnel_command(self.port, os.environ)
        if tunnel is not None:
            self._say(f"from your own machine: {tunnel}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def observer(self) -> RunObserver:
        """Observer that prints the address of the run's own page."""
        return _PageObserver(self)

    def stay(self, code: int) -> int:
        """``code``, after Ctrl-C if the page is kept.

        An interrupted run ends it at once.
        """
        if self._keep and code < 128 and self._process.poll() is None:
            with StopRequest() as stop:  # before the line: its reader may interrupt at once
                self._say(f"the page stays at {self.address}/; Ctrl-C ends it")
                while not stop() and self._process.poll() is None:
                    time.sleep(POLL_SECONDS)
        return code

    def _wait_for_start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.poll() is not None:
                raise PageServerError(f"the page did not start: {self._last_output()}")
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((HOST, self.port)) == 0:
                    return
            if time.monotonic() > deadline:
                raise PageServerError(f"the page does not answer after {START_SECONDS:.0f} s: {self._last_output()}")
            time.sleep(POLL_SECONDS)

    def _last_output(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        text = os.pread(self._output.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if any(letter.isalnum() for letter in line)]
        return lines[-1].removeprefix("esper: error: ") if lines else "it has printed nothing"

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._output.close()

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def page_server(folder: Path, port: int | None, keep: bool) -> PageServer | None:
    """The server of the page for ``folder``; ``None`` without a port."""
    return None if port is None else PageServer(folder, port, keep=keep)


def run_beside(server: PageServer | None, run: Callable[[], int]) -> int:
    """Exit code of ``run``, with the page beside it if there is one."""
    if server is None:
        return run()
    with server:
        return server.stay(run())


class _PageObserver(RunObserver):
    """Observer that names the page of a run."""

    def __init__(self, server: PageServer) -> None:
        self._server = server

    def run_started(self, context: RunContext) -> None:
        context.links["page"] = f"{self._server.address}/runs/{context.run.run_id}"
        self._server._say(f"page of the run {context.links['page']}")


def tunnel_command(port: int, environment: Mapping[str, str]) -> str | None:
    """The command that reaches the page from another machine.

    ``None`` if this machine is not used from afar.

    Args:
        environment: environment variables; over SSH, ``SSH_CONNECTION`` names the address that was used.
    """
    parts = environment.get("SSH_CONNECTION", "").split()
    if len(parts) == 4:
        host = parts[2]
    elif "RAY_ADDRESS" in environment or "RAY_JOB_ID" in environment or "SLURM_JOB_ID" in environment:
        host = socket.getfqdn()
    else:
        return None
    return f"ssh -L {port}:{HOST}:{port} {getpass.getuser()}@{host}"
