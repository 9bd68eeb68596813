"""Who may speak to the gateway's port, and the shapes of what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio
from starlette.datastructures import Headers

from llama_gossip.gateway.access import Access
from llama_gossip.gateway.app import Gateway
from llama_gossip.gateway.bodies import MAX_BODY_BYTES
from llama_gossip.gateway.keys import Allowance, Key, Keys, digest_of
from llama_gossip.news import NodeEvent, RequestAsked
from llama_gossip.openai_api import ApiError
from tests.live.conftest import eventually

from .staging import CHAT, Stage, error_of, raw, staged

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]

KEYS = Keys(
    (
        Key("alice", digest_of("key-a")),
        Key("slow", digest_of("key-s"), priority=3, allowance=Allowance(1)),
    )
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("keyed"), ["scripted"], KEYS) as one:
        yield one


# --- names and origins ---------------------------------------------------------------------------


async def test_another_host_name_is_refused(stage: Stage) -> None:
    for path in ("/v1/models", "/", "/healthz"):
        reply = await stage.http.get(path, headers={"host": "evil.example"})
        assert (reply.status_code, error_of(reply)["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 403), ("::1", 403), ("[::1]", 403), ("localhost", 403), ("0.0.0.0", 200)],
)
async def test_names_are_checked_on_every_address_that_is_loopback(
    stage: Stage, host: str, status: int
) -> None:
    gateway = Gateway(stage.node, keys=Keys(), host=host)
    over = httpx2.ASGITransport(app=gateway.app)
    async with httpx2.AsyncClient(transport=over, base_url="http://evil.example") as http:
        assert (await http.get("/v1/models")).status_code == status
    gateway.close()


async def test_a_page_of_another_origin_gets_nothing(stage: Stage) -> None:
    for origin in (
        "http://evil.example",
        "null",
        stage.server.url.replace("127.0.0.1", "localhost"),
        "http://[",
    ):
        reply = await stage.post("/v1/chat/completions", CHAT, origin=origin)
        assert reply.status_code == 403
        assert "access-control-allow-origin" not in reply.headers
    assert (await stage.post("/v1/chat/completions", CHAT, origin=stage.server.url)).status_code == 200
    preflight = await stage.http.options("/v1/chat/completions", headers={"origin": "http://evil.example"})
    assert preflight.status_code == 403


async def test_an_origin_is_not_taken_for_the_name_that_is_missing(stage: Stage) -> None:
    access = Access(stage.gateway.app, keys=Keys(), loopback=False, replied=lambda status: None)
    with pytest.raises(ApiError) as caught:
        access._admit(Headers({"origin": "null"}), "/v1/models")
    assert caught.value.status == 403


async def test_replies_are_counted_by_their_status(stage: Stage) -> None:
    before = await stage.metric('llama_gossip_http_replies_total{status="200"}')
    assert (await stage.http.get("/nowhere")).status_code == 404
    refused = await stage.metric('llama_gossip_http_replies_total{status="404"}')
    assert (await stage.http.get("/nowhere")).status_code == 404
    assert await stage.metric('llama_gossip_http_replies_total{status="404"}') == refused + 1
    assert await stage.metric('llama_gossip_http_replies_total{status="200"}') == before + 3


async def test_without_keys_any_authorization_will_do(stage: Stage) -> None:
    assert (
        await stage.http.get("/v1/models", headers={"authorization": "Bearer nonsense"})
    ).status_code == 200


# --- keys ------------------------------------------------------------------------------------------


async def test_with_keys_all_but_the_open_paths_need_one(keyed: Stage) -> None:
    for path in ("/v1/models", "/metrics", "/openapi.json", "/api/status", "/api/events", "/nowhere"):
        reply = await keyed.http.get(path)
        assert (reply.status_code, error_of(reply)["code"]) == (401, "invalid_api_key")
        assert reply.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz", "/"):
        assert (await keyed.http.get(path)).status_code == 200
    wrong = await keyed.http.get("/v1/models", headers={"authorization": "Bearer key-b"})
    assert wrong.status_code == 401
    assert "does not know the key" in error_of(wrong)["message"]
    right = await keyed.http.get("/v1/models", headers={"authorization": "bearer key-a"})
    assert right.status_code == 200
    in_the_address = await keyed.http.get("/v1/models?api_key=key-a&key=key-a")
    assert in_the_address.status_code == 401


async def test_a_key_that_has_used_up_its_rate_is_told_when_to_come_back(keyed: Stage) -> None:
    first = await keyed.post("/v1/chat/completions", CHAT, authorization="Bearer key-s")
    again = await keyed.post("/v1/chat/completions", CHAT, authorization="Bearer key-s")
    assert (first.status_code, again.status_code) == (200, 429)
    assert error_of(again)["code"] == "rate_limit_exceeded"
    assert 1 <= int(again.headers["retry-after"]) <= 60
    other = await keyed.post("/v1/chat/completions", CHAT, authorization="Bearer key-a")
    assert other.status_code == 200


# --- shapes ----------------------------------------------------------------------------------------


async def test_every_reply_has_an_id_of_its_own(stage: Stage) -> None:
    replies = [await stage.http.get(path) for path in ("/healthz", "/nowhere", "/v1/models", "/healthz")]
    ids = {reply.headers["x-request-id"] for reply in replies}
    assert len(ids) == len(replies)
    for reply in replies:
        assert reply.headers["cache-control"] == "no-cache"
        assert "set-cookie" not in reply.headers
        assert "server" not in reply.headers
    status = await stage.http.get("/api/status")
    assert "no-store" in status.headers["cache-control"], "a route's own word stands"


async def test_unknown_paths_and_wrong_methods_have_the_error_shape(stage: Stage) -> None:
    for path in ("/nowhere", "/v1", "/v1/", "/v1/chat/completions/", "/%00", "/v1/models/", "/..%2f..%2fetc"):
        reply = await stage.http.get(path)
        assert reply.status_code == 404, path
        error_of(reply)
    wrong = await stage.http.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    error_of(wrong)
    other = await stage.http.delete("/v1/models")
    assert other.status_code == 405
    assert set(other.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_head_has_the_headers_and_no_body(stage: Stage) -> None:
    for path in ("/v1/models", "/healthz", "/", "/nowhere", "/openapi.json", "/metrics"):
        reply = await stage.http.head(path)
        assert reply.content == b""
        assert reply.status_code == (404 if path == "/nowhere" else 200)
        assert int(reply.headers["content-length"]) > 0


async def test_models_are_listed_once_and_found_by_name(stage: Stage) -> None:
    listed = (await stage.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"]) == ("scripted", "model")
    assert isinstance(model["created"], int)
    assert isinstance(model["owned_by"], str)
    assert (await stage.http.get("/v1/models/scripted")).json() == model
    for name in ("of/another", "of%2Fanother", "%F0%9F%8E%88"):
        missing = await stage.http.get(f"/v1/models/{name}")
        assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")


async def test_a_post_that_is_not_json_is_415(stage: Stage) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        reply = await stage.http.post("/v1/chat/completions", content=b"{}", headers={"content-type": kind})
        assert (reply.status_code, error_of(reply)["code"]) == (415, "unsupported_media_type")
    kind = "Application/JSON; charset=utf-8"
    reply = await stage.http.post(
        "/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": kind}
    )
    assert reply.status_code == 200


HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    b"content-type: application/json\r\n"
)


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(stage: Stage) -> None:
    reader, writer = await raw(stage, HEAD + b"content-length: 4194305\r\n\r\n")
    assert b" 413 " in await reader.readline(), "told although nothing of the body has come"
    writer.close()


async def test_a_client_that_leaves_in_mid_body_has_asked_for_nothing(stage: Stage) -> None:
    asked: list[NodeEvent] = []
    unlisten = stage.node.add_listener(asked.append)
    body = json.dumps(CHAT).encode()
    _, writer = await raw(stage, HEAD + b"content-length: %d\r\n\r\n" % (len(body) + 1) + body)
    writer.close()
    await eventually(lambda: b'status="499"' in stage.gateway._metrics.exposition()[0], "nobody is answered")
    unlisten()
    assert not [event for event in asked if isinstance(event, RequestAsked)]


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_client_that_is_still_sending_can_read_that_its_body_is_too_large(
    stage: Stage, chunked: bool
) -> None:
    size, piece = 12 << 20, b"x" * (1 << 20)
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
    reader, writer = await raw(stage, HEAD + length + b"\r\n\r\n")
    for _ in range(size // len(piece)):
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        await writer.drain()
    if chunked:
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    assert b" 413 " in await reader.readline()
    rest = await reader.read()
    assert b'"body_too_large"' in rest
    writer.close()


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        (b"/v1/chat/completions", b"text/plain", 415),
        (b"/nowhere", b"application/json", 404),
        (b"/v1/models", b"application/json", 405),
        (b"/v1/chat/completions", b"application/json", 401),
    ],
)
async def test_whatever_refuses_a_body_can_be_read_by_who_is_still_sending_it(
    stage: Stage, keyed: Stage, path: bytes, kind: bytes, status: int
) -> None:
    size = 12 << 20
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: %b\r\n" % (path, kind)
    reader, writer = await raw(keyed if status == 401 else stage, head + b"content-length: %d\r\n\r\n" % size)
    assert b" %d " % status in await reader.readuntil(b"}}")
    for _ in range(size >> 20):
        writer.write(bytes(1 << 20))
        await writer.drain()
    assert await reader.read() == b"", "the connection was closed, not reset"
    writer.close()


async def test_a_body_of_just_the_limit_is_read(stage: Stage) -> None:
    body = json.dumps({**CHAT, "metadata": "x"}).encode()
    body = body.replace(b'"x"', b'"%b"' % (b"x" * (MAX_BODY_BYTES - len(body) + 1)))
    assert len(body) == MAX_BODY_BYTES
    headers = {"content-type": "application/json"}
    assert (await stage.http.post("/v1/chat/completions", content=body, headers=headers)).status_code == 200


async def test_a_priority_is_a_digit(stage: Stage) -> None:
    for text in ("10", "-1", "high", "3.0", "07", "9" * 5_000):
        reply = await stage.post("/v1/chat/completions", CHAT, **{"x-llama-gossip-priority": text})
        assert (reply.status_code, error_of(reply)["param"]) == (400, "x-llama-gossip-priority")
    assert (
        await stage.post("/v1/chat/completions", CHAT, **{"x-llama-gossip-priority": "9"})
    ).status_code == 200
