"""A consumer that stops reading, over real endpoints: the stream parks its job, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_gossip import Answer, InferenceNode, transport, unread
from llama_gossip.engine import scripted
from llama_gossip.generation import Generation
from llama_gossip.protocol.messages import ChatPrompt
from llama_gossip.protocol.timers import Timers

from .conftest import Spawn, eventually

pytestmark = pytest.mark.live

LONGER = 16  # times as long as the script's own words, so that there is enough of it
TOKENS = 13_000  # 8 700 of them fill what is unread and what the stream holds on its way
UNREAD_BYTES = 128 * 1024  # an eighth of the usual: what a resume carries must stay below a mebibyte
# Until the pause, and what the stream's credit of 256 KiB carries beside: 850 and 2 600 or so.
MOST_UNREAD = 5_000
QUICK = 200  # tokens of an answer that is read
PACED = "scripted:delay_ms=0.1"  # a script without any delay is far ahead before it can be told to wait
STALLED = ("attempts_silent", "attempts_idle")


@pytest.fixture(autouse=True)
def _long_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "WORDS", tuple(word * LONGER for word in scripted.WORDS))
    monkeypatch.setattr(unread, "MAX_UNREAD_BYTES", UNREAD_BYTES)
    monkeypatch.setattr(unread, "READ_ON_BYTES", UNREAD_BYTES // 2)


def whole_text(prompt: str, seed: int, tokens: int) -> str:
    key = scripted.script_key(scripted.prompt_ids(ChatPrompt((("user", prompt),))), seed)
    return "".join(scripted.WORDS[scripted.word_id(key, index)] for index in range(tokens))


async def pair(spawn: Spawn, engine: str = PACED) -> tuple[InferenceNode, InferenceNode]:
    worker = await spawn("worker", engine=engine)
    client = await spawn("client")
    await eventually(lambda: [p.state for p in client.peers()] == ["ready"], "the client sees the worker")
    return worker, client


async def read(generation: Generation) -> Answer:
    text = [token.text async for token in generation]
    assert generation.answer is not None
    assert "".join(text) == generation.answer.text
    return generation.answer


@pytest.mark.parametrize("own", [False, True], ids=["another's worker", "the own worker"])
async def test_a_reader_that_stands_still_gets_the_whole_text_later(spawn: Spawn, own: bool) -> None:
    worker, other = await pair(spawn)
    client = worker if own else other
    generation = client.generate("Hello", max_tokens=TOKENS, seed=5, worker=worker.node_id)
    await eventually(lambda: client.stats().get("requests_held", 0) == 1, "the reader is said to be full")
    await eventually(lambda: worker.stats().get("jobs_parked", 0) == 1, "the worker parks the job")
    # An answer that comes and goes meanwhile: what was on its way is here by then, and others are served.
    quick = await client.complete("Hello", max_tokens=QUICK, seed=5, worker=worker.node_id)
    assert quick.text == whole_text("Hello", 5, QUICK)
    assert 0 < len(generation._conversation.waiting) < MOST_UNREAD < TOKENS
    assert generation.answer is None
    made = worker.stats()["tokens_made"]
    assert made < TOKENS
    await client.complete("Hello", max_tokens=QUICK, seed=6, worker=worker.node_id)
    assert worker.stats()["tokens_made"] == made + QUICK, "nothing is made for whoever does not read"
    answer = await read(generation)
    assert answer.text == whole_text("Hello", 5, TOKENS)
    assert (answer.usage.completion_tokens, answer.attempts, answer.verified) == (TOKENS, 1, True)
    assert not any(client.stats().get(name, 0) for name in STALLED)


@pytest.mark.parametrize("linger_s", [0.0, transport.LINGER_S], ids=["and forgets", "and leaves its word"])
async def test_an_answer_whose_worker_waits_no_more_goes_on_when_it_is_read(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, linger_s: float
) -> None:
    monkeypatch.setattr(transport, "LINGER_S", linger_s)
    worker, client = await pair(spawn)
    worker._core._desk.timers = replace(Timers(), unread_ms=100)
    generation = client.generate("Hello", max_tokens=TOKENS, seed=5)
    await eventually(lambda: worker.stats().get("jobs_not_read", 0) == 1, "the worker lets the job go")
    assert worker._core._worker.jobs.queue.running == 0
    if not linger_s:
        await eventually(lambda: client.stats().get("attempts_lost", 0) == 1, "the stream is gone")
    assert client.stats()["attempts"] == 1  # nobody begins while it is not read
    worker._core._desk.timers = Timers()
    answer = await read(generation)
    if linger_s:
        assert client.stats()["attempts_error"] == 1
    assert answer.text == whole_text("Hello", 5, TOKENS)
    assert (answer.resume, answer.verified) == ("exact", True)
    assert answer.attempts > 1
    assert not any(client.stats().get(name, 0) for name in STALLED)


async def test_leaving_a_paused_answer_frees_its_worker(spawn: Spawn) -> None:
    worker, client = await pair(spawn, "scripted:delay_ms=1")
    generation = client.generate("Hello", max_tokens=30_000, seed=5)
    await eventually(lambda: client.stats().get("requests_held", 0) == 1, "the reader is said to be full")
    await generation.aclose()
    await eventually(lambda: worker.stats().get("jobs_cancelled", 0) == 1, "the job is cancelled")
