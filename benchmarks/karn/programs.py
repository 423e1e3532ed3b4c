"""The viewers as programs: in a pseudo-terminal and as a server."""

import fcntl
import itertools
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from benchmarks.karn.logs import ENVS
from esper_ray.leyline.records import Record
from esper_ray.nissa.runs.live_steps import LIVE, LIVE_FIELDS
from esper_ray.nissa.runs.pulse import Pulse, PulseWriter

OVERVIEW_TEXT = b"environments"
"""Text of the overview that is drawn once the log is read."""
TICKS = os.sysconf("SC_CLK_TCK")
STEPS_PER_SECOND = 50


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


class Terminal:
    """``esper sanctum`` in a pseudo-terminal."""

    def __init__(self, run: Path) -> None:
        self._ours, theirs = pty.openpty()
        self._resize(24, 80)
        self.began = time.perf_counter()
        words = [sys.executable, "-m", "esper_ray", "sanctum", str(run)]
        environment = os.environ | {"TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)

    def _resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def output(self, seconds: float, until: bytes | None = None) -> bytes:
        """What it writes within ``seconds``, or before ``until`` has come."""
        content, end = b"", time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if until is not None and until in content:
                break
            if select.select([self._ours], [], [], left)[0]:
                content += os.read(self._ours, 2**16)
        return content

    def first_screen(self) -> float:
        """Seconds from the start to the screen with the log.

        Raises:
            TimeoutError: if it does not come within two minutes.
        """
        if OVERVIEW_TEXT not in self.output(120, OVERVIEW_TEXT):
            raise TimeoutError("esper sanctum has drawn no environments")
        return time.perf_counter() - self.began

    def read_on(self) -> None:
        """Read everything that it writes from now on, in a thread."""

        def read() -> None:
            with suppress(OSError):
                while os.read(self._ours, 2**16):
                    pass

        threading.Thread(target=read, daemon=True).start()

    def full_screen(self) -> int:
        """Bytes of a whole screen, drawn after a change of the size."""
        self.output(2)
        self._resize(24, 81)
        os.kill(self.process.pid, signal.SIGWINCH)
        return len(self.output(2))

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def beating(run: Path, rounds: int) -> Iterator[None]:
    """Context in which the driver of the run beats."""
    now = time.time()
    pulse = PulseWriter(run, Pulse("playing", now, now, rounds, rounds + 1, 0, ENVS, "normal"))
    pulse.start()
    try:
        yield
    finally:
        pulse.stop("interrupted")
        (run / "pulse.json").unlink()


def add_live_step(run: Path, step: Record) -> None:
    """Append a step of an episode in play, as a driver does."""
    with (run / LIVE).open("a") as file:
        file.write(json.dumps({name: step[name] for name in LIVE_FIELDS}) + "\n")


@contextmanager
def playing(run: Path, steps: Sequence[Record], first_episode: int) -> Iterator[None]:
    """Context in which ``STEPS_PER_SECOND`` steps of episodes in play are written."""
    stopped = threading.Event()

    def write() -> None:
        for number in itertools.count():
            env, step = number % ENVS, number // ENVS % len(steps)
            clock = {"env": env, "episode": first_episode + env + number // ENVS // len(steps) * ENVS}
            add_live_step(run, {**steps[step], **clock})
            if stopped.wait(1 / STEPS_PER_SECOND):
                return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


class Server:
    """``esper overwatch`` of a folder, with clients of the stream of one run."""

    def __init__(self, run: Path) -> None:
        words = [sys.executable, "-m", "esper_ray", "overwatch", str(run.parent), "--port", "0"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address = urlsplit(self.process.stdout.readline().split()[-1])
        self._address, self._run = (address.hostname or "", address.port or 0), run.name
        self.url = f"http://{address.netloc}"
        self._clients: list[socket.socket] = []

    def client(self, receive_bytes: int | None = None) -> socket.socket:
        """A connection that asks for the stream.

        Args:
            receive_bytes: size of its buffer; ``None``: that of the system.
        """
        client = socket.socket()
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.connect(self._address)
        path = f"/api/v1/runs/{self._run}/stream"
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        self._clients.append(client)
        return client

    def first_state(self) -> float:
        """Seconds from a request to the state with the environments of the log.

        Raises:
            ConnectionError: if the stream ends before.
        """
        began, client, content = time.perf_counter(), self.client(), b""
        while b'"environments":{"' not in content:
            received = client.recv(2**16)
            if not received:
                raise ConnectionError("the stream has ended without environments")
            content = content[-64:] + received
        return time.perf_counter() - began

    def reader(self) -> None:
        """Add a client that reads everything, in a thread."""
        client = self.client()

        def read() -> None:
            with suppress(OSError):
                while client.recv(2**16):
                    pass

        threading.Thread(target=read, daemon=True).start()

    def close(self) -> None:
        """End it."""
        for client in self._clients:
            client.close()
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
