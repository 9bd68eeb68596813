"""/api/events: the present at once, then what changes; bounded for readers that do not read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llama_gossip.gateway import live as live_module
from llama_gossip.gateway.dashboard import Dashboard
from llama_gossip.gateway.live import ALIVE, MAX_WAITING, Live
from llama_gossip.gateway.status import Status
from tests.live.conftest import eventually

from .staging import PATIENCE_S, Stage, events, staged

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]


async def test_the_whole_comes_first_and_without_the_ticket(stage: Stage) -> None:
    async with stage.http.stream("GET", "/api/events") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-accel-buffering"] == "no"
        name, told = await anext(events(reply))
    whole = await stage.status()
    assert name == "status"
    assert list(told) == [field for field in whole if field != "ticket"]
    assert told["peers"][0]["node_id"] == stage.worker.node_id.hex()


async def test_a_request_is_told_when_it_is_asked_and_when_it_ends(stage: Stage) -> None:
    outcomes: list[str] = []
    async with asyncio.timeout(PATIENCE_S), stage.http.stream("GET", "/api/events") as reply:
        told = events(reply)
        await anext(told)
        generation = stage.node.generate("Hello", max_tokens=100_000)
        async for name, change in told:
            rows = change["requests"]["rows"] if name == "change" and "requests" in change else []
            outcomes += [row["outcome"] for row in rows if row["request_id"] == generation.request_id]
            if outcomes == [""]:
                stage.node.cancel(generation.request_id)
            elif outcomes:
                break
    assert outcomes == ["", "cancelled"]


async def test_head_opens_no_stream(stage: Stage) -> None:
    reply = await stage.http.head("/api/events")
    assert (reply.status_code, reply.content) == (200, b"")


async def test_a_reader_that_has_gone_costs_nothing_more(stage: Stage) -> None:
    await eventually(lambda: stage.dashboard.readers == 0, "the readers of other tests have gone")
    async with stage.http.stream("GET", "/api/events") as reply:
        await anext(events(reply))
        assert stage.dashboard.readers == 1
    await eventually(lambda: stage.dashboard.readers == 0, "the reader has gone")


async def test_too_many_readers_are_told_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MAX_READERS", 0)
    reply = await stage.http.get("/api/events")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "too_many_readers")
    assert reply.headers["retry-after"]


async def test_close_ends_every_stream(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), staged(tmp_path / "home") as stage:
        async with stage.http.stream("GET", "/api/events") as reply:
            told = events(reply)
            await anext(told)
            stage.dashboard.close()
            assert [name async for name, _ in told if name == "status"] == []
        reply = await stage.http.get("/api/events")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")


# --- the hub alone: its readers are read by hand -----------------------------------------------------


def live_of(stage: Stage) -> tuple[Live, Status]:
    status = Status(stage.node, tells_ticket=False)
    return Live(status), status


async def told_by(live: Live) -> tuple[Any, bytes]:
    stream = live.stream()
    return stream, await anext(stream)


async def test_a_reader_that_does_not_read_is_told_the_whole_again_and_bounded(stage: Stage) -> None:
    live, status = live_of(stage)
    try:
        stream, first = await told_by(live)
        assert first.startswith(b"event: status\n")
        (reader,) = live._readers
        for number in range(10 * MAX_WAITING):
            reader.put(b"change %d" % number)
            assert len(reader.waiting) <= MAX_WAITING
        assert (await anext(stream)).startswith(b"event: status\n")
        reader.put(b"the next change")
        assert await anext(stream) == b"the next change"
        await stream.aclose()
        assert live._readers == set()
    finally:
        live.close()
        status.close()


async def test_news_are_told_at_once_and_not_at_the_next_beat(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "BEAT_S", 3600.0)
    dashboard = Dashboard(stage.node, keyed=False)
    try:
        stream, _ = await told_by(dashboard._live)
        await stage.node.complete("Hello", max_tokens=3)
        async with asyncio.timeout(PATIENCE_S):
            chunk = await anext(stream)
            while chunk == ALIVE:
                chunk = await anext(stream)
        assert chunk.startswith(b"event: change\n")
        await stream.aclose()
    finally:
        dashboard.close()


async def test_a_silent_network_is_kept_alive_by_comments(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "KEEP_ALIVE_S", 0.01)
    monkeypatch.setattr(live_module, "BEAT_S", 3600.0)
    live, status = live_of(stage)
    try:
        stream, _ = await told_by(live)
        assert await anext(stream) == ALIVE
        await stream.aclose()
    finally:
        live.close()
        status.close()


async def test_a_beat_that_fails_is_reported_and_the_next_one_comes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, reported = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
    monkeypatch.setattr(live_module, "LEAST_GAP_S", 0.0)
    monkeypatch.setattr(live_module, "BEAT_S", 0.01)
    live, status = live_of(stage)
    beats: list[None] = []

    def fails_once() -> None:
        beats.append(None)
        if len(beats) == 1:
            raise LookupError

    monkeypatch.setattr(status, "sample", fails_once)
    try:
        await eventually(lambda: len(beats) > 1, "a second beat")
        assert reported == ["llama-gossip: the dashboard missed a beat"]
    finally:
        loop.set_exception_handler(None)
        live.close()
        status.close()
