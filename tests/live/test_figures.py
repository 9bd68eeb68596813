"""What `stats()` tells of a worker: what it does now, and what its prefix cache has spared it."""

from __future__ import annotations

import pytest

from .conftest import Spawn, eventually

pytestmark = pytest.mark.live

OF_A_WORKER = {
    "running",
    "queue_depth",
    "queue_ms",
    "parked",
    "fed_tokens",
    "cached_tokens",
    "first_token_ms",
}


async def test_the_second_turn_of_a_chat_shows_as_cached_tokens(spawn: Spawn) -> None:
    node = await spawn("worker", engine="tiny-random")
    first = [{"role": "user", "content": "Tell me a long story about a river. " * 4}]
    answer = await node.complete(first, max_tokens=20, seed=1)
    before = node.stats()
    assert (before["fed_tokens"], before["cached_tokens"]) == (answer.usage.prompt_tokens, 0)
    assert before["first_token_ms"] > 0
    turn = [*first, {"role": "assistant", "content": answer.text}, {"role": "user", "content": "Go on."}]
    answer = await node.complete(turn, max_tokens=5, seed=1)
    after = node.stats()
    fed, cached = after["fed_tokens"] - before["fed_tokens"], after["cached_tokens"]
    assert fed + cached == answer.usage.prompt_tokens
    assert cached > before["fed_tokens"] // 2


async def test_what_runs_and_waits_is_told_of_a_worker_and_of_nobody_else(spawn: Spawn) -> None:
    worker = await spawn("worker", engine="scripted:delay_ms=5")
    client = await spawn("client")
    await eventually(lambda: [p.state for p in client.peers()] == ["ready"], "the client sees the worker")
    asked = [client.generate("Hello", max_tokens=5_000) for _ in range(10)]
    await eventually(lambda: worker.stats()["queue_depth"] == 2, "eight run and two wait")
    assert (worker.stats()["running"], worker.stats()["parked"]) == (8, 0)
    assert worker.stats().keys() >= OF_A_WORKER
    assert not OF_A_WORKER & client.stats().keys()
    for generation in asked:
        await generation.aclose()
    await eventually(lambda: worker.stats()["running"] == 0, "all is cancelled")
    assert worker.stats()["queue_depth"] == 0
