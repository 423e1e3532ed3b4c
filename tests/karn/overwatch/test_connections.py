"""A connection whose request does not arrive is ended; others are left alone."""

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from esper_ray.karn.overwatch import connections

HEAD = b"GET / HTTP/1.1\r\nHost: box\r\n\r\n"
LIMIT = 0.3


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def talk(monkeypatch):
    """Runs a conversation with a server on this machine."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", LIMIT)

    async def served(conversation):
        config, state = uvicorn.Config(answer, log_config=None, timeout_keep_alive=30), ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: connections.PunctualProtocol(config, state, {}), "127.0.0.1", 0)
        try:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            return await asyncio.wait_for(conversation(reader, writer), 20.0)
        finally:
            writer.close()
            server.close()

    return lambda conversation: asyncio.run(served(conversation))


def test_a_head_that_never_ends_is_given_up_though_bytes_arrive(talk):
    async def drip(reader, writer):
        sent = 0
        while not reader.at_eof():
            writer.write(HEAD[sent % 20 : sent % 20 + 1])
            sent += 1
            await asyncio.sleep(0.02)
            if writer.is_closing():
                break
        try:
            return await reader.read()
        except ConnectionResetError:  # a byte has met the closed socket
            return b""

    assert talk(drip) == b""


def test_a_connection_without_a_byte_is_given_up(talk):
    assert talk(lambda reader, writer: reader.read()) == b""


def test_a_connection_between_two_requests_is_kept(talk):
    async def ask_twice(reader, writer):
        answers = []
        for _ in range(2):
            for part in (HEAD[:9], HEAD[9:]):
                writer.write(part)
                await asyncio.sleep(0.05)
            answers.append((await reader.readuntil(b"ok")).partition(b"\r\n")[0])
            await asyncio.sleep(1.5 * LIMIT)
        return answers

    assert talk(ask_twice) == [b"HTTP/1.1 200 OK"] * 2


def test_a_later_head_that_never_ends_is_given_up(talk):
    async def ask_once(reader, writer):
        writer.write(HEAD)
        await reader.readuntil(b"ok")
        writer.write(HEAD[:9])
        return await reader.read()

    assert talk(ask_once) == b""
