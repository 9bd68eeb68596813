"""The HTTP server inside the node's loop: where it listens, whom it bears with, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llama_gossip.errors import ConfigError
from llama_gossip.gateway import connection, server
from llama_gossip.gateway.binding import bind
from llama_gossip.gateway.connection import MAX_HEAD_BYTES, Connection
from llama_gossip.gateway.server import Server

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], "asyncio.Future[Streams]"]

PATIENCE_S = 20.0  # only a failure waits so long


class Asgi:
    """`/` answers, `/echo` tells how long the body was, `/stream` sends until `enough` is set or the client
    has gone."""

    def __init__(self) -> None:
        self.enough = asyncio.Event()
        self.running = asyncio.Event()
        self.gone = asyncio.Event()
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        path = scope["path"]
        if path == "/stream":
            await self._stream(receive, send)
            return
        body = b"hello"
        if path == "/echo":
            size = 0
            while (message := await receive()).get("more_body"):
                size += len(message["body"])
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            body = str(size + len(message["body"])).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one;", "more_body": True})
            self.running.set()
            left = asyncio.ensure_future(receive())
            enough = asyncio.ensure_future(self.enough.wait())
            await asyncio.wait({left, enough}, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                enough.cancel()
                self.gone.set()
                return
            left.cancel()
            await send({"type": "http.response.body", "body": b"two;"})
            return


@pytest.fixture
async def asgi() -> Asgi:
    return Asgi()


@pytest.fixture
async def served(asgi: Asgi) -> AsyncIterator[Server]:
    one = Server(asgi, "127.0.0.1", 0)
    await one.start()
    yield one
    await one.stop(0.0)


@pytest.fixture
async def connect(served: Server) -> AsyncIterator[Connect]:
    """Opens connections and closes them at the end."""
    opened: list[asyncio.StreamWriter] = []

    async def open_one() -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(served))
        opened.append(writer)
        return reader, writer

    yield lambda: asyncio.ensure_future(open_one())
    for writer in opened:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def port_of(served: Server) -> int:
    return int(served.url.rpartition(":")[2])


def head(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: here", *lines, "", ""]).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one response that has a content-length."""
    text = (await within(reader.readuntil(b"\r\n\r\n"))).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in text[1:] if line)
    body = await within(reader.readexactly(int(headers["content-length"])))
    return int(text[0].split()[1]), headers, body


async def within(work: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await work


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes, or cuts, the connection."""
    with contextlib.suppress(ConnectionResetError):
        return bytes(await within(reader.read()))
    return b""


# --- beginning ----------------------------------------------------------------------------------


async def test_port_0_gets_a_real_port_and_the_url_names_it(served: Server, connect: Connect) -> None:
    assert served.url.startswith("http://127.0.0.1:")
    assert port_of(served) > 0
    reader, writer = await connect()
    writer.write(head("/"))
    status, headers, body = await answer(reader)
    assert (status, body) == (200, b"hello")
    assert not {"server", "date"} & headers.keys()


@pytest.mark.parametrize(
    ("host", "start"),
    [("localhost", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:")],
)
async def test_the_url_is_one_that_this_host_can_reach(asgi: Asgi, host: str, start: str) -> None:
    one = Server(asgi, host, 0)
    await one.start()
    try:
        assert one.url.startswith(start)
        address = one.url.removeprefix("http://").rpartition(":")[0].strip("[]")
        _, writer = await asyncio.open_connection(address, port_of(one))
        writer.close()
    finally:
        await one.stop(0.0)


async def test_a_port_in_use_is_a_sentence_and_a_remedy(asgi: Asgi, served: Server) -> None:
    with pytest.raises(ConfigError) as caught:
        await Server(asgi, "127.0.0.1", port_of(served)).start()
    assert caught.value.exit_code == 3
    assert f"port {port_of(served)} of 127.0.0.1 is in use" in caught.value.message
    assert "choose another port" in caught.value.hint


@pytest.mark.parametrize("host", ["example.org", "", "*", "127.0.0.1:80", "256.1.1.1"])
def test_what_is_no_address_is_refused_and_never_looked_up(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(ConfigError, match="no address that can be listened on") as caught:
        bind(host, 0)
    assert "127.0.0.1" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("192.0.2.1", 0, "no address of this machine"),  # TEST-NET-1: nobody has it
        ("127.0.0.1", 70000, "70000 is no port"),
        ("127.0.0.1", -1, "-1 is no port"),
    ],
)
def test_what_cannot_be_bound_says_why(host: str, port: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        bind(host, port)
    assert caught.value.hint


def test_a_port_that_needs_privileges_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: socket.socket, _address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)  # whoever runs this may be allowed everything
    with pytest.raises(ConfigError, match="port 80 may not be used by this user") as caught:
        bind("127.0.0.1", 80)
    assert "above 1023" in caught.value.hint


async def test_signals_and_logging_stay_those_of_the_process(asgi: Asgi) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    one = Server(asgi, "127.0.0.1", 0)
    await one.start()
    try:
        assert [signal.getsignal(number) for number in numbers] == before
        assert not logging.getLogger("uvicorn.error").handlers
        assert logging.getLogger("uvicorn").level == logging.NOTSET
    finally:
        await one.stop(0.0)


async def test_a_client_cannot_name_its_own_address(asgi: Asgi, connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(head("/", "x-forwarded-for: 192.0.2.7", "x-forwarded-proto: https"))
    await answer(reader)
    assert asgi.scopes[0]["client"][0] == "127.0.0.1"
    assert asgi.scopes[0]["scheme"] == "http"


# --- bearing with clients -------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has long to send a request."""
    monkeypatch.setattr(Connection, "request_s", 0.05)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("sent", [b"", b"GET / HT", head("/")[:-2]], ids=["nothing", "a word", "half a head"])
async def test_who_does_not_finish_a_head_loses_the_connection(
    asgi: Asgi, connect: Connect, sent: bytes
) -> None:
    reader, writer = await connect()
    writer.write(sent)
    assert await end_of(reader) == b""
    assert asgi.scopes == []


@pytest.mark.usefixtures("hasty")
async def test_who_does_not_finish_a_second_head_loses_the_connection(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(head("/"))
    await answer(reader)
    writer.write(b"GET / HT")
    assert await end_of(reader) == b""


@pytest.mark.usefixtures("hasty")
async def test_who_does_not_finish_a_body_is_gone_for_the_app_too(asgi: Asgi, connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(head("/echo", "content-length: 100", method="POST") + b"x" * 10)
    assert await end_of(reader) == b""
    await within(asgi.gone.wait())


@pytest.mark.usefixtures("hasty")
async def test_a_whole_request_may_be_answered_as_slowly_as_it_takes(asgi: Asgi, connect: Connect) -> None:
    quick, slow = await connect(), await connect()
    slow[1].write(head("/stream"))
    await within(asgi.running.wait())
    assert await end_of(quick[0]) == b""  # the clock of one that sends nothing has run out meanwhile
    asgi.enough.set()
    assert b"two;" in await within(slow[0].readuntil(b"two;"))


async def test_a_huge_head_is_refused_in_the_shape_of_every_error(asgi: Asgi, connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(head("/", "x-filler: " + "x" * MAX_HEAD_BYTES)[:-4])
    status, headers, body = await answer(reader)
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert await end_of(reader) == b""
    assert asgi.scopes == []


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", head("/", "a b: c"), b"\0" * 99]
)
async def test_what_is_no_http_is_refused_without_a_word_in_the_log(
    connect: Connect, caplog: pytest.LogCaptureFixture, junk: bytes
) -> None:
    reader, writer = await connect()
    writer.write(junk + b"\r\n\r\n")
    status, _, body = await answer(reader)
    assert status == 400
    assert "error" in json.loads(body)
    assert await end_of(reader) == b""
    assert caplog.records == []


async def test_a_websocket_is_answered_as_plain_http(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await connect()
    writer.write(head("/", "connection: upgrade", "upgrade: websocket"))
    status, _, _ = await answer(reader)
    assert status == 200
    assert caplog.records == []


async def test_three_hundred_connections_are_served_at_once(asgi: Asgi, connect: Connect) -> None:
    async def ask() -> bytes:
        reader, writer = await connect()
        writer.write(head("/stream", "connection: close"))
        return await end_of(reader)

    asking = [asyncio.ensure_future(ask()) for _ in range(300)]
    while len(asgi.scopes) < 300:
        await within(asyncio.wait(asking, timeout=0.01))
    asgi.enough.set()
    answers = await within(asyncio.gather(*asking))
    assert all(b"one;" in text and b"two;" in text for text in answers)


async def test_connections_beyond_the_limit_are_told_why_and_then_cut(
    asgi: Asgi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "max_connections", lambda: 2)
    monkeypatch.setattr(connection, "POLITE_CONNECTIONS", 1)
    one = Server(asgi, "127.0.0.1", 0)
    await one.start()
    try:
        opened = [await asyncio.open_connection("127.0.0.1", port_of(one)) for _ in range(4)]
        assert await end_of(opened[3][0]) == b""
        opened[2][1].write(head("/"))
        status, headers, body = await answer(opened[2][0])
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body)["error"]["message"] == connection.TOO_MANY
        assert await end_of(opened[2][0]) == b""
        opened[0][1].write(head("/"))
        assert (await answer(opened[0][0]))[0] == 200
        for _, writer in opened:
            writer.close()
    finally:
        await one.stop(0.0)


def test_few_open_files_leave_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert connection.max_connections() == connection.MAX_CONNECTIONS
    monkeypatch.setattr(resource, "getrlimit", lambda _: (300, 4096))
    assert connection.max_connections() == 300 - connection.OWN_FILES - connection.POLITE_CONNECTIONS


# --- ending ---------------------------------------------------------------------------------------


async def test_the_end_closes_idle_connections_and_lets_an_answer_end(
    asgi: Asgi, served: Server, connect: Connect
) -> None:
    idle, half, busy = await connect(), await connect(), await connect()
    idle[1].write(head("/"))
    await answer(idle[0])
    half[1].write(b"GET / HT")
    busy[1].write(head("/stream"))
    await within(asgi.running.wait())
    stopping = asyncio.ensure_future(served.stop(PATIENCE_S))
    assert await end_of(idle[0]) == b""
    assert await end_of(half[0]) == b""
    with pytest.raises(ConnectionRefusedError):
        await connect()
    assert not stopping.done()
    asgi.enough.set()
    assert b"two;" in await end_of(busy[0])
    await within(stopping)


async def test_an_answer_that_outlives_the_grace_is_cut_and_its_app_hears_of_it(
    asgi: Asgi, served: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await connect()
    writer.write(head("/stream"))
    await within(asgi.running.wait())
    await within(served.stop(0.0))
    assert b"two;" not in await end_of(reader)
    assert asgi.gone.is_set()
    assert caplog.records == []


async def test_an_app_that_does_not_listen_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def deaf(_scope: Any, _receive: Any, _send: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(server, "CUT_S", 0.05)
    one = Server(deaf, "127.0.0.1", 0)
    await one.start()
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(one))
    writer.write(head("/"))
    await within(started.wait())
    await within(one.stop(0.0))
    assert ended.is_set()
    writer.close()


async def test_idle_waits_for_what_runs_and_still_takes_new_requests(
    asgi: Asgi, served: Server, connect: Connect
) -> None:
    busy, other = await connect(), await connect()
    busy[1].write(head("/stream"))
    await within(asgi.running.wait())
    assert not await served.idle(0.0)
    waiting = asyncio.ensure_future(served.idle(PATIENCE_S))
    other[1].write(head("/"))
    assert (await answer(other[0]))[0] == 200
    assert not waiting.done()
    asgi.enough.set()
    assert await within(waiting)


async def test_stop_is_harmless_when_repeated_or_never_started(asgi: Asgi, served: Server) -> None:
    await served.stop(0.0)
    await served.stop(0.0)
    await Server(asgi, "127.0.0.1", 0).stop(0.0)


async def test_the_environment_of_other_servers_changes_nothing(
    asgi: Asgi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "WEB_CONCURRENCY", "many")
    one = Server(asgi, "127.0.0.1", 0)
    await one.start()
    await one.stop(0.0)
    assert one.url
