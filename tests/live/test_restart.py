"""A worker process that was killed and comes back under its key: the same node to everybody."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from llama_gossip.news import RequestEnded

from .conftest import Spawn, eventually
from .workers import PROMPT, stage

pytestmark = pytest.mark.live

SCRIPTED = "scripted:delay_ms=10"


async def test_a_worker_killed_and_restarted_with_the_same_key_serves_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        (node_id,) = await setting.start(SCRIPTED, name="phoenix")
        before = await setting.client.complete(PROMPT, max_tokens=30, seed=2, worker=node_id)
        killed = setting.workers[node_id]
        setting.signal(node_id, signal.SIGKILL)
        killed.process.wait()
        assert await setting.start(SCRIPTED, name="phoenix") == [node_id]
        killed.__exit__(None, None, None)
        after = await setting.client.complete(PROMPT, max_tokens=30, seed=2, worker=node_id)
        assert after.text == before.text
        assert after.worker == before.worker == node_id
        assert after.verified


async def test_a_client_that_comes_again_under_its_key_keeps_the_answer_it_asked_for_at_once(
    spawn: Spawn,
) -> None:
    """Its Assign may be there before its Announce: that is no sign that its process has ended."""
    worker = await spawn("worker", engine="scripted:delay_ms=20")
    ended: list[str] = []
    worker.add_listener(lambda news: ended.append(news.reason) if isinstance(news, RequestEnded) else None)
    for _ in range(3):
        client = await spawn("client")
        await eventually(lambda asking=client: bool(asking.peers()), "the client sees the worker")
        answer = await client.complete(PROMPT, max_tokens=100, seed=2)
        assert answer.attempts == 1
        await client.shutdown()
    await eventually(lambda: len(ended) == 3, "the worker has heard of all ends")
    assert ended == ["done"] * 3
