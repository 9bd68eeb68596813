"""Whom a connection bears with: slow, huge, foreign and far too many clients."""

from __future__ import annotations

import asyncio
import json
import resource

import pytest

from llama_gossip.gateway import connection, server
from llama_gossip.gateway.connection import MAX_HEAD_BYTES, Connection
from llama_gossip.gateway.server import Server
from tests.gateway.server.asgi import Asgi, Connect, answer, end_of, head, port_of, within
from tests.live.conftest import eventually


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


async def test_a_client_that_goes_is_heard_of_whatever_it_sent_behind_its_request(
    asgi: Asgi, connect: Connect
) -> None:
    _, writer = await connect()
    writer.write(head("/stream"))
    await within(asgi.running.wait())
    writer.write(b"\r\n")  # some clients end a body so
    writer.close()
    await within(asgi.gone.wait())


async def test_a_client_that_closes_its_half_has_gone(asgi: Asgi, connect: Connect) -> None:
    _, writer = await connect()  # nothing else would tell it from one that has closed the whole
    writer.write(head("/stream"))
    await within(asgi.running.wait())
    writer.write_eof()
    await within(asgi.gone.wait())


async def test_of_what_is_sent_behind_a_running_request_little_is_kept(
    asgi: Asgi, served: Server, connect: Connect
) -> None:
    reader, writer = await connect()
    writer.write(head("/stream"))
    await within(asgi.running.wait())
    (mine,) = served._uvicorn.server_state.connections
    writer.write(head("/") * 40_000)
    await eventually(lambda: mine.flow.read_paused, "the server reads no more")
    assert len(mine.conn.trailing_data[0]) < 1 << 20
    asgi.enough.set()
    assert (await within(reader.readuntil(b"hello"))).count(b"200 OK") == 2, (
        "the next is answered in its turn"
    )


async def test_who_reads_nothing_of_its_answer_loses_the_connection(
    asgi: Asgi, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "unread_s", 0.05)
    _, writer = await connect()
    writer.write(head("/flood"))
    await within(asgi.gone.wait())


async def test_who_reads_on_has_time_again(asgi: Asgi, served: Server, connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(head("/flood"))
    await eventually(lambda: served._uvicorn.server_state.connections, "it is connected")
    (mine,) = served._uvicorn.server_state.connections
    await eventually(lambda: mine._unread_clock is not None, "the clock runs")
    size = 0
    while size < 64 << 20:
        size += len(await within(reader.read(1 << 20)))
    assert mine._unread_clock is None
    assert not asgi.gone.is_set()


async def test_no_client_has_the_loop_for_long(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    receive = Connection.data_received
    monkeypatch.setattr(
        Connection, "data_received", lambda c, data: (sizes.append(len(data)), receive(c, data))
    )
    reader, writer = await connect()
    body = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    writer.write(head("/echo", "transfer-encoding: chunked", method="POST") + body)
    assert (await answer(reader))[2] == b"20000"
    assert max(sizes) <= connection.READ_BYTES


async def test_a_huge_head_is_refused_in_the_shape_of_every_error(asgi: Asgi, connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(head("/", "x-filler: " + "x" * MAX_HEAD_BYTES)[:-4])
    status, headers, body = await answer(reader)
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert (headers["cache-control"], headers["x-should-retry"]) == ("no-cache", "false")
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


@pytest.mark.parametrize("path", ["/", "/echo"])  # an app that has its answer already, one that reads first
async def test_a_body_that_turns_into_no_http_is_refused_without_a_word_in_the_log(
    connect: Connect, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    reader, writer = await connect()
    writer.write(head(path, "transfer-encoding: chunked", method="POST") + b"1\r\nx\r\nno size\r\n")
    status, _, body = await answer(reader)
    assert status == 400
    assert set(json.loads(body)) == {"error"}
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
