"""A consumer that stops reading, over real endpoints: the stream stops its worker, nothing is lost."""

from __future__ import annotations

import pytest

from llama_gossip import Answer, InferenceNode
from llama_gossip.generation import Generation
from llama_gossip.protocol.limits import MAX_UNREAD_BYTES, UNREAD_TOKEN_BYTES

from .conftest import Spawn, eventually

pytestmark = pytest.mark.live

TOKENS = 60_000  # four times what a reader may be behind; less than what the streams buffer beside
# Until the pause, and what the stream's credit of 256 KiB carries beside: a token takes 12 B in a frame.
MOST_UNREAD = MAX_UNREAD_BYTES // UNREAD_TOKEN_BYTES + 262_144 // 12
STALLED = ("attempts_silent", "attempts_idle", "attempts_lost")


async def read(generation: Generation) -> Answer:
    text = [token.text async for token in generation]
    assert generation.answer is not None
    assert "".join(text) == generation.answer.text
    return generation.answer


async def held(client: InferenceNode, generation: Generation, worker: InferenceNode) -> int:
    """Until the worker has made all of it and only the reader is behind; how many tokens wait."""
    await eventually(lambda: client.stats().get("requests_held", 0) == 1, "the reader is said to be full")
    await eventually(lambda: worker.stats()["tokens_made"] == TOKENS, "the worker has made it all")
    # An answer that comes and goes meanwhile has passed all that was on its way.
    await client.complete("Hello", max_tokens=3)
    return len(generation._conversation.waiting)


@pytest.mark.parametrize("own", [False, True], ids=["another's worker", "the own worker"])
async def test_a_reader_that_stands_still_gets_the_whole_text_later(spawn: Spawn, own: bool) -> None:
    worker = await spawn("worker", engine="scripted")
    client = worker if own else await spawn("client")
    if not own:
        await eventually(lambda: [p.state for p in client.peers()] == ["ready"], "it sees the worker")
    generation = client.generate("Hello", max_tokens=TOKENS, seed=5, worker=worker.node_id)
    assert 0 < await held(client, generation, worker) < MOST_UNREAD
    assert generation.answer is None
    answer = await read(generation)
    assert (answer.usage.completion_tokens, answer.attempts, answer.verified) == (TOKENS, 1, True)
    assert not any(client.stats().get(name, 0) for name in STALLED)
    again = await read(client.generate("Hello", max_tokens=TOKENS, seed=5, worker=worker.node_id))
    assert again.text == answer.text


async def test_leaving_a_paused_answer_frees_its_worker(spawn: Spawn) -> None:
    worker = await spawn("worker", engine="scripted:delay_ms=1")
    client = await spawn("client")
    await eventually(lambda: [p.state for p in client.peers()] == ["ready"], "it sees the worker")
    generation = client.generate("Hello", max_tokens=250_000, seed=5)
    await eventually(lambda: client.stats().get("requests_held", 0) == 1, "the reader is said to be full")
    await generation.aclose()
    await eventually(lambda: worker.stats().get("jobs_cancelled", 0) == 1, "the job is cancelled")
