"""How answers over HTTP end when something goes: the client, the worker, the network, the gateway's room."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llama_gossip.gateway import orders
from llama_gossip.gateway.keys import Key, Keys, digest_of
from tests.live.conftest import eventually

from .staging import CHAT, COMPLETION, Stage, error_of, events_of, raw, staged, text_of

pytestmark = pytest.mark.live

SLOW = "scripted:delay_ms=20"
LONG = {"max_tokens": 2_000}


def reasons(stage: Stage) -> list[str]:
    return [end.reason for end in stage.ended]


async def test_a_client_that_leaves_a_stream_ends_the_workers_job(tmp_path: Path) -> None:
    async with staged(tmp_path, [SLOW]) as stage:
        async with stage.http.stream(
            "POST", "/v1/chat/completions", json=CHAT | LONG | {"stream": True}
        ) as reply:
            lines = reply.aiter_lines()
            while "content" not in await anext(lines):
                pass
            assert await stage.metric("llama_gossip_requests_in_flight") == 1
        await eventually(lambda: len(stage.ended) == 1, "the worker's job ends")
        assert stage.ended[0].tokens < 1_000
        assert await stage.metric("llama_gossip_requests_in_flight") == 0


@pytest.mark.parametrize("prefill", ["", ",prefill_chunk=1"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_anything_came_ends_the_workers_job(
    tmp_path: Path, stream: bool, prefill: str
) -> None:
    async with staged(tmp_path, [SLOW + prefill]) as stage:
        body = {**CHAT, **LONG, "stream": stream, "messages": [{"role": "user", "content": "x" * 3_000}]}
        asking = asyncio.create_task(stage.post("/v1/chat/completions", body))
        await eventually(lambda: stage.workers[0].stats()["running"] == 1, "the worker has it")
        asking.cancel()
        await eventually(lambda: len(stage.ended) == 1, "the worker's job ends")
        assert await stage.metric('llama_gossip_http_replies_total{status="503"}') == 0, "we did not fail"
        assert await stage.metric("llama_gossip_requests_in_flight") == 0


async def test_a_stream_that_is_cut_while_it_sends_leaves_nothing_behind(tmp_path: Path) -> None:
    body = json.dumps(CHAT | LONG | {"stream": True}).encode()
    unread, sending = [{"type": "http.request", "body": body, "more_body": False}], asyncio.Event()

    async def receive() -> Any:
        return unread.pop() if unread else await asyncio.Future()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sending.set()
            await asyncio.Future()  # the client reads nothing

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    async with staged(tmp_path, [SLOW]) as stage:
        before = asyncio.all_tasks()
        call = stage.gateway.app({**scope, "root_path": "", "query_string": b""}, receive, send)
        connection = asyncio.ensure_future(call)
        await sending.wait()
        connection.cancel()
        await asyncio.wait({connection})
        assert connection.cancelled()
        await eventually(lambda: len(stage.ended) == 1, "the worker's job ends")
        assert await stage.metric("llama_gossip_requests_in_flight") == 0
        left = {task.get_name() for task in asyncio.all_tasks() - before}
        assert not {name for name in left if name.startswith("llama-gossip")}


async def test_a_worker_that_goes_in_mid_stream_is_not_noticed_by_the_client(tmp_path: Path) -> None:
    async with staged(tmp_path, [SLOW, SLOW]) as stage:
        whole = (await stage.chat(max_tokens=60)).json()["choices"][0]["message"]["content"]
        text, done = "", False
        async with stage.http.stream(
            "POST", "/v1/chat/completions", json=CHAT | {"max_tokens": 60, "stream": True}
        ) as reply:
            first = reply.headers["x-llama-gossip-worker"]
            (serving,) = [worker for worker in stage.workers if worker.node_id.hex() == first]
            async for line in reply.aiter_lines():
                text += line + "\n"
                if line.startswith("data: {") and not done:
                    done = True
                    await serving.shutdown()
        *chunks, last = events_of(text)
        assert last == "[DONE]"
        assert text_of(chunks) == whole
        end = chunks[-1]["llama_gossip"]
        assert end["attempts"] == 2
        assert end["worker"] != first


async def test_a_stream_that_nobody_can_finish_ends_with_an_error_and_no_done(tmp_path: Path) -> None:
    async with staged(tmp_path, [SLOW]) as stage:
        text, gone = "", False
        async with stage.http.stream(
            "POST", "/v1/chat/completions", json=CHAT | LONG | {"stream": True}
        ) as reply:
            async for line in reply.aiter_lines():
                text += line + "\n"
                if line.startswith("data: {") and not gone:
                    gone = True
                    await stage.workers[0].shutdown()
        *_, last = events_of(text)
        assert set(last) == {"error"}
        assert set(last["error"]) == {"message", "type", "param", "code"}
        assert last["error"]["code"] not in (None, "internal"), "it was no bug of ours"
        assert "[DONE]" not in text
        assert await stage.metric("llama_gossip_requests_in_flight") == 0


async def test_what_nobody_can_finish_is_a_failure_however_it_was_asked_for(tmp_path: Path) -> None:
    async with staged(tmp_path, [SLOW]) as stage:
        several = {"prompt": ["one", "two", "three"], **LONG}
        asking = asyncio.gather(stage.chat(**LONG), stage.completion(**several))
        await eventually(lambda: stage.workers[0].stats()["running"] == 4, "the worker has all of them")
        text = ""
        async with stage.http.stream(
            "POST", "/v1/completions", json=COMPLETION | several | {"stream": True}
        ) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {") and "data: {" not in text:
                    await stage.workers[0].shutdown()
                text += line + "\n"
        *_, last = events_of(text)
        assert set(last) == {"error"}
        for whole in await asking:
            assert whole.status_code >= 500
            error_of(whole)
        assert await stage.metric("llama_gossip_requests_in_flight") == 0


async def test_without_a_worker_it_is_503_and_the_probe_says_so(tmp_path: Path) -> None:
    async with staged(tmp_path, []) as stage:
        assert (await stage.http.get("/healthz")).status_code == 200
        for reply in (await stage.http.get("/readyz"), await stage.chat(), await stage.chat(stream=True)):
            assert (reply.status_code, error_of(reply)["code"]) == (503, "no_workers")
            assert int(reply.headers["retry-after"]) > 0
            assert "x-should-retry" not in reply.headers
        assert (await stage.http.get("/v1/models")).json() == {"object": "list", "data": []}


async def test_who_waits_is_told_that_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_gossip.gateway.answering.KEEP_ALIVE_S", 0.05)
    async with staged(tmp_path, ["scripted:delay_ms=20,prefill_chunk=8"]) as stage:
        reply = await stage.chat(messages=[{"role": "user", "content": "x" * 400}], stream=True)
        waits, content = reply.text.count(": waiting\n\n"), reply.text.index("data:")
        assert waits > 3
        assert ": waiting" not in reply.text[content:], "only before the first token"


async def test_who_waits_is_told_so_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path, ["scripted:delay_ms=20,prefill_chunk=1"]) as stage:
        body = CHAT | {"messages": [{"role": "user", "content": "x" * 200}], "stream": True}
        async with stage.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            assert await anext(reply.aiter_raw()) == b": waiting\n\n", "and not with the first token"


async def test_a_slow_reader_gets_the_whole_stream(tmp_path: Path) -> None:
    async with staged(tmp_path, ["scripted"]) as stage:
        body = json.dumps(CHAT | {"max_tokens": 4_000, "stream": True}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        reader, writer = await raw(stage, head + body)
        await eventually(lambda: len(stage.ended) == 1, "the worker has made it all")
        text = (await reader.read()).decode()
        assert text.count('"delta":{"content"') == 4_000
        assert "data: [DONE]" in text
        writer.close()


async def test_a_gateway_that_drains_takes_no_new_generation_and_finishes_what_runs(tmp_path: Path) -> None:
    async with staged(tmp_path, [SLOW]) as stage:
        running = asyncio.create_task(stage.chat(max_tokens=40, stream=True))
        await eventually(lambda: stage.workers[0].stats()["running"] == 1, "the worker has it")
        watching = asyncio.create_task(stage.http.get("/api/events"))
        await eventually(lambda: stage.gateway._dashboard.readers == 1, "a dashboard is open")
        stage.gateway.begin_drain()
        assert (await watching).status_code == 200, "and is ended"
        refused = await stage.chat()
        assert (refused.status_code, error_of(refused)["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        probe = await stage.http.get("/readyz")
        assert (probe.status_code, error_of(probe)["code"]) == (503, "draining")
        assert events_of((await running).text)[-1] == "[DONE]"


async def test_what_a_leaving_gateway_cuts_is_told_that_it_was_cut(tmp_path: Path) -> None:
    async with staged(tmp_path, [SLOW]) as stage:
        running = [asyncio.create_task(stage.chat(**LONG, stream=stream)) for stream in (True, False)]
        await eventually(lambda: stage.workers[0].stats()["running"] == 2, "the worker has both")
        stage.gateway.begin_drain()
        stage.gateway.cut()
        streamed, whole = await asyncio.gather(*running)
        assert events_of(streamed.text)[-1]["error"]["code"] == "cancelled"
        assert "[DONE]" not in streamed.text
        assert (whole.status_code, error_of(whole)["code"]) == (503, "cancelled")
        assert await stage.metric("llama_gossip_requests_in_flight") == 0


async def test_beyond_its_room_the_gateway_says_when_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "MAX_WAITING", 3)
    async with staged(tmp_path, []) as stage:  # nobody takes them, for the seconds until that is told
        replies = await asyncio.gather(*(stage.chat() for _ in range(5)))
        statuses = sorted(reply.status_code for reply in replies)
        assert statuses == [429, 429, 503, 503, 503]
        full = next(reply for reply in replies if reply.status_code == 429)
        assert error_of(full)["code"] == "rate_limit_exceeded"
        assert int(full.headers["retry-after"]) > 0
        assert (await stage.chat()).status_code == 503, "there is room again"


async def test_what_a_worker_has_taken_waits_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "MAX_WAITING", 1)
    async with staged(tmp_path, [SLOW]) as stage:
        running = asyncio.create_task(stage.chat(max_tokens=40, stream=True))
        await eventually(lambda: any(order.worker for order in stage.gateway._orders._open), "it is taken")
        assert (await stage.chat(max_tokens=1)).status_code == 200
        assert not running.done()
        assert (await running).status_code == 200


async def test_a_failure_of_ours_is_a_500_without_internals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret of ours")

    monkeypatch.setattr("llama_gossip.gateway.app.models_list", broken)
    async with staged(tmp_path, []) as stage:
        reply = await stage.http.get("/v1/models")
        assert (reply.status_code, error_of(reply)["code"]) == (500, "internal")
        assert "secret" not in reply.text
        assert "a secret of ours" in caplog.text


async def test_an_order_of_a_capped_key_is_no_more_urgent_than_its_cap(tmp_path: Path) -> None:
    submitted = []
    async with staged(tmp_path, ["scripted"]) as stage:
        real = stage.gateway._orders._submit
        stage.gateway._orders._submit = lambda submit: (submitted.append(submit), real(submit))[1]
        stage.gateway.app._keys = Keys((Key("low", digest_of("k"), priority=2),))
        for given in ({}, {"x-llama-gossip-priority": "9"}, {"x-llama-gossip-priority": "1"}):
            await stage.post("/v1/chat/completions", CHAT, authorization="Bearer k", **given)
        assert [submit.priority for submit in submitted] == [2, 2, 1]
