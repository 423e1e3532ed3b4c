"""HTTP server of metrics with a limit of time and number of connections."""

import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

MAX_CONNECTIONS = 32
"""Open connections; one more is closed at once."""
CONNECTION_SECONDS = 10.0
"""Seconds after which a connection is closed, whatever its client does."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Server of ``/metrics``, one thread for each connection, which lasts for one request."""

    daemon_threads = True

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        """
        Args:
            port: 0 selects a free one, see ``server_port``.

        Raises:
            OSError: if the port is in use or the address is not one of this machine.
        """
        self.address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((address, port), _SilentHandler)
        self.set_app(make_wsgi_app(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in its own thread, or close it if there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until its end or its time limit."""
        limit = threading.Timer(CONNECTION_SECONDS, _disconnect, (request,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early or is disconnected is not a fault of the run."""


class _SilentHandler(WSGIRequestHandler):
    timeout = CONNECTION_SECONDS
    """Longest wait for the next bytes of a request, in seconds."""

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""


def _disconnect(connection: socket.socket) -> None:
    """End a connection; its thread then reads the end of the request."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # closed in the meantime
        return
