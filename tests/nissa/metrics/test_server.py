"""Server of metrics: its limits of time and connections."""

import socket
import threading
import time
from contextlib import ExitStack
from urllib.request import urlopen

import pytest

from esper_ray.nissa.metrics import server
from esper_ray.nissa.metrics.exporter import PrometheusExporter

pytestmark = pytest.mark.integration

SHORT = 0.5


@pytest.fixture
def exporter():
    opened = PrometheusExporter("run-1", "A", 0)
    yield opened
    opened.close(at_once=True)


@pytest.fixture
def short_limit(monkeypatch):
    monkeypatch.setattr(server, "CONNECTION_SECONDS", SHORT)


def connection(exporter):
    return socket.create_connection(("127.0.0.1", exporter.port), 5)


def seconds_until_closed(opened):
    began = time.monotonic()
    opened.settimeout(8)
    try:
        while opened.recv(4096):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


def test_the_documented_limits_are_32_connections_and_10_seconds():
    assert (server.MAX_CONNECTIONS, server.CONNECTION_SECONDS, server._SilentHandler.timeout) == (32, 10.0, 10.0)


def test_one_connection_more_than_32_is_closed_at_once_and_32_are_served(exporter):
    with ExitStack() as stack:
        idle = [stack.enter_context(connection(exporter)) for _ in range(server.MAX_CONNECTIONS)]
        for opened in idle:  # each has its thread
            opened.sendall(b"GET /metrics HTTP/1.0\r\n")
        more = stack.enter_context(connection(exporter))
        assert seconds_until_closed(more) < 5
        idle[0].sendall(b"\r\n")
        idle[0].settimeout(5)
        assert idle[0].recv(15) == b"HTTP/1.0 200 OK"
    assert scraped(exporter)


def scraped(exporter):
    """Whether a scrape succeeds within five seconds, as connections end."""
    until = time.monotonic() + 5
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=2) as answer:
                return b"ray_esper_rounds_done" in answer.read()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize("drip", [b"", b"X"])
def test_a_silent_or_dripping_client_is_disconnected_after_the_limit(exporter, short_limit, drip):
    with connection(exporter) as opened:
        stop = threading.Event()

        def send():
            while drip and not stop.wait(0.05):
                try:
                    opened.sendall(drip)
                except OSError:
                    return

        sender = threading.Thread(target=send)
        sender.start()
        duration = seconds_until_closed(opened)
        stop.set()
        sender.join(5)
    assert SHORT * 0.8 < duration < 6


@pytest.mark.nightly
def test_a_flood_of_idle_connections_ends_and_scrapes_succeed_again(exporter, short_limit):
    with ExitStack() as stack:
        for _ in range(server.MAX_CONNECTIONS + 8):
            stack.enter_context(connection(exporter))
        assert scraped(exporter)
