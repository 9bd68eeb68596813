"""The HTTP server inside the node's loop: how it begins and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Any

import pytest

from llama_gossip.errors import ConfigError
from llama_gossip.gateway import server
from llama_gossip.gateway.server import Server
from tests.gateway.server.asgi import PATIENCE_S, Asgi, Connect, answer, end_of, head, port_of, within


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


# --- ending ------------------------------------------------------------------------------------


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
