"""The server of Overwatch: its socket, its addresses, its end."""

import errno
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from esper_ray.karn.overwatch.access import TOKEN_VARIABLE, Access, checked_hosts, drawn_token, is_loopback, read_token
from esper_ray.karn.overwatch.api.services import Services
from esper_ray.karn.overwatch.connections import PunctualProtocol
from esper_ray.karn.overwatch.routes import application
from esper_ray.karn.overwatch.runs.hub import Hub
from esper_ray.karn.overwatch.runs.index import IndexedPlace, PlaceIndex, check_folder
from esper_ray.karn.overwatch.runs.stored import Copies, StoredRuns
from esper_ray.karn.overwatch.runs.summaries import Summaries
from esper_ray.karn.overwatch.sql.process import SqlProcess
from esper_ray.karn.questions.tables import QuestionPool
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.state.answers import Gain, gain

DEFAULT_PORT = 8080
BACKLOG = 128
SILENT_MILLISECONDS = 30_000
"""Time after which the connection of a client that does not read is dropped by the kernel."""
SHUTDOWN_SECONDS = 2


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Choices of the command line."""

    places: tuple[str, ...] = ()
    """Folders and storages that are watched."""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token_file: Path | None = None
    root_path: str = ""
    allowed_hosts: tuple[str, ...] = ()
    sql: bool = False
    """Whether SQL is served on an address that other machines reach."""


class OverwatchServer:
    """A server that has its socket."""

    def __init__(self, options: ServerOptions, defaults: Sequence[Path]) -> None:
        """
        Args:
            defaults: folders that are watched if no place is named; they need not exist yet.

        Raises:
            UsageError: if a choice cannot be served, such as a port that is taken.
            StorageError: if a storage cannot be read.
        """
        folders, storages = watched(options.places, defaults)
        self._root = checked_root(options.root_path)
        local = is_loopback(options.host)
        token = read_token(options.token_file, os.environ.get(TOKEN_VARIABLE))
        self.is_token_drawn = token is None and not local
        allowed_hosts = checked_hosts(options.allowed_hosts)
        self.socket = bound_socket(options.host, options.port)
        self.access = Access(
            host=options.host,
            port=self.socket.getsockname()[1],
            token=drawn_token() if self.is_token_drawn else token,
            allowed_hosts=allowed_hosts,
        )
        copies = Copies(storages)
        self._hub = Hub(copies=copies)
        self.services = Services(
            index=PlaceIndex(folders, self._root, storages=copies.mirrors),
            hub=self._hub,
            summaries=Summaries(self._live_gain),
            access=self.access,
            root=self._root,
            questions=QuestionPool(),
            sql=SqlProcess() if local or options.sql else None,
        )

    def _live_gain(self, place: IndexedPlace) -> Gain | None:
        run = self._hub.known(place)
        return None if run is None else gain(run.follower.state)

    @property
    def address(self) -> str:
        """Address of the page of all runs."""
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(self.access.host, self.access.host)
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.access.port}{self._root}/"

    def lines(self) -> list[str]:
        """What is printed at the start: address, folders, a drawn token, the way from another machine."""
        lines = [f"Overwatch: {self.address}"]
        lines.append(f"watching {', '.join(self.services.index.shown_folders)}; Ctrl-C ends it")
        if is_loopback(self.access.host) and os.environ.get("SSH_CONNECTION"):
            port = self.access.port
            lines.append(f"from another machine: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}")
        if self.is_token_drawn:
            lines.append(f"token, shown this once: {self.access.token}")
        return lines

    def run(self) -> None:
        """Serve until a signal ends the process."""
        log = logging.getLogger("uvicorn.error")
        log.setLevel(logging.ERROR)
        log.addFilter(_is_fault)
        config = uvicorn.Config(
            application(self.services),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=30,
            limit_concurrency=512,
            http=PunctualProtocol,
            ws="none",
        )
        _Server(config, self._hub).run(sockets=[self.socket])


def _is_fault(record: logging.LogRecord) -> bool:
    """Whether a message is about a fault: a client that was ended because it did not read is none."""
    return not record.getMessage().startswith(("ASGI callable returned without", "Cancel "))


class _Server(uvicorn.Server):
    """Server that ends its streams before it waits for its connections."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.close()
        await super().shutdown(sockets)


def watched(places: Sequence[str], defaults: Sequence[Path]) -> tuple[list[Path], list[StoredRuns]]:
    """The folders and the storages to watch. Without any, the folders are ``defaults``.

    Raises:
        UsageError: if a folder cannot be read, or a storage holds no run.
        StorageError: if a storage cannot be read.
    """
    folders = [Path(place) for place in places if ":/" not in place]
    for folder in folders:
        check_folder(folder)
    storages = [StoredRuns(place) for place in places if ":/" in place]
    return folders if places else list(defaults), storages


def checked_root(root: str) -> str:
    """The prefix ``root`` with a slash before it and none behind; empty without one.

    Raises:
        UsageError: if it is not a path of plain characters.
    """
    trimmed = root.strip("/")
    if not trimmed:
        return ""
    allowed = all(letter.isascii() and (letter.isalnum() or letter in "-_.~/") for letter in trimmed)
    if not allowed or any(part in ("", ".", "..") for part in trimmed.split("/")):
        raise UsageError(f"--root-path {root!r:.100}: it must be a path such as /overwatch")
    return f"/{trimmed}"


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: if the port is taken, or the address is not one of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host!r:.100} is not an address: {error}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MILLISECONDS)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"--port {port} is taken on {host}; --port 0 chooses a free one") from error
        raise UsageError(f"--host {host} --port {port}: {error.strerror or error}") from error
    return listener
