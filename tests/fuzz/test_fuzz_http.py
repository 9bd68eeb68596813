"""Thousands of malformed bodies, to what reads them and to a live gateway: a 4xx each, no more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from llama_gossip.openai_api import ApiError, Asked, Kind, chat_asked, completion_asked
from tests.fuzz.http_bodies import MODEL, http_bodies
from tests.fuzz.http_heads import http_heads
from tests.gateway.staging import Stage, raw, staged

SEED, RUNS, MALFORMED, HEADS = 20_261_128, 12_500, 10_000, 1_500
ENGINE = "scripted:stop_after=3,context=64"  # what is valid is answered at once, whatever it asks for
EVERY = 4  # of the valid ones, so many are sent: they take longest and tell least
PATIENCE_S = 60.0  # only a hang takes so long
READ = {Kind.CHAT: chat_asked, Kind.COMPLETION: completion_asked}
PATHS = {Kind.CHAT: "/v1/chat/completions", Kind.COMPLETION: "/v1/completions"}

pytestmark = pytest.mark.fuzz


def verdict(kind: Kind, body: bytes) -> Asked | ApiError:
    try:
        return READ[kind](body)
    except ApiError as error:
        return error


def test_ten_thousand_malformed_bodies_are_refused_by_name_and_nothing_else_is_raised() -> None:
    codes: Counter[str | None] = Counter()
    params: set[str | None] = set()
    for run, (kind, body) in enumerate(http_bodies(SEED, RUNS)):
        try:
            found = verdict(kind, body)
        except Exception as error:  # noqa: BLE001  # any at all is the finding
            pytest.fail(f"run {run} of seed {SEED}: {body[:500]!r}: {error!r}")
        if isinstance(found, ApiError):
            assert found.status == (404 if found.code == "model_not_found" else 400)
            assert len(json.dumps(found.body())) < 2_000
            codes[found.code] += 1
            params.add(found.param)
    assert codes.total() >= MALFORMED
    assert len(params) > 50  # the mutants reach what there is to refuse
    assert len(codes) >= 7


# --- a live gateway ----------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("home"), [ENGINE]) as one:
        yield one


async def reply_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next reply on a connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").lower()
    status = int(head.split(" ", 2)[1])
    if "transfer-encoding: chunked" not in head:
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return status, await reader.readexactly(length)
    chunks = []
    while size := int((await reader.readline()).strip(), 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
    await reader.readline()
    return status, b"".join(chunks)


def request_of(kind: Kind, body: bytes) -> bytes:
    lines = (f"POST {PATHS[kind]} HTTP/1.1", "host: localhost", "content-type: application/json")
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def check(found: Asked | ApiError, status: int, reply: bytes) -> None:
    if isinstance(found, ApiError):
        assert (status, json.loads(reply)) == (found.status, found.body())
    elif status == 200 and found.stream:
        assert reply.endswith(b"data: [DONE]\n\n")
    elif status == 200:
        assert json.loads(reply)["choices"]
    else:  # the model's own reasons: its context and its vocabulary
        assert json.loads(reply)["error"]["code"] in ("context_length_exceeded", "invalid_value")
        assert status == 400


@pytest.mark.live
@pytest.mark.asyncio(loop_scope="module")
async def test_ten_thousand_malformed_bodies_on_one_connection_of_a_gateway(stage: Stage) -> None:
    print(f"seed {SEED}, {RUNS} bodies")  # to repeat a failure
    reader, writer = await raw(stage, b"")
    refused = answered = 0
    for run, (kind, body) in enumerate(http_bodies(SEED, RUNS)):
        found = verdict(kind, body)
        if isinstance(found, Asked) and (found.model != MODEL or run % EVERY):
            continue  # a name that might be served elsewhere is asked for all over the network, for seconds
        try:
            async with asyncio.timeout(PATIENCE_S):
                writer.write(request_of(kind, body))
                check(found, *await reply_of(reader))
        except Exception as error:  # noqa: BLE001  # any at all is the finding
            pytest.fail(f"run {run} of seed {SEED}: {body[:500]!r}: {error!r}")
        refused += isinstance(found, ApiError)
        answered += isinstance(found, Asked)
    writer.close()
    assert refused >= MALFORMED
    assert answered > 100
    assert (await stage.chat()).status_code == 200
    assert await stage.metric("llama_gossip_requests_in_flight") == 0


@pytest.mark.live
@pytest.mark.asyncio(loop_scope="module")
async def test_malformed_heads_are_refused_or_cut_and_break_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Each on a connection of its own, which ends with it: some ask for more bytes than ever come."""
    print(f"seed {SEED}, {HEADS} heads")
    statuses: Counter[int] = Counter()
    for run, data in enumerate(http_heads(SEED, HEADS)):
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await raw(stage, data)
            await stage.http.get("/healthz")  # by its end the server has read the head
            with contextlib.suppress(OSError):
                writer.write_eof()
            reply = await everything(reader)
            writer.close()
        if reply:
            status = int(reply.split(b" ", 2)[1])
            assert status < 500, f"head {run} of seed {SEED}: {data[:500]!r}: {reply!r}"
            statuses[status] += 1
    assert {200, 400, 403, 404, 405, 415} <= set(statuses)
    assert [record for record in caplog.records if record.name.startswith("llama_gossip")] == []


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end of the connection, or until it is cut."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""
