"""A consumer that stops reading, over real endpoints: the stream stops its worker, nothing is lost."""

from __future__ import annotations

import pytest

from llama_gossip import Answer, InferenceNode, transport
from llama_gossip.engine import scripted
from llama_gossip.generation import Generation
from llama_gossip.protocol.messages import ChatPrompt

from .conftest import Spawn, eventually

pytestmark = pytest.mark.live

LONGER = 8  # times as long as the script's own words, so that there is enough of it
TOKENS = 20_000
# Until the pause at 1 MiB, and what the stream's credit of 256 KiB carries beside: 9 600 and 4 800 or so.
MOST_UNREAD = 17_000
STALLED = ("attempts_silent", "attempts_idle")


@pytest.fixture(autouse=True)
def _long_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "WORDS", tuple(word * LONGER for word in scripted.WORDS))


def whole_text(prompt: str, seed: int, tokens: int) -> str:
    key = scripted.script_key(scripted.prompt_ids(ChatPrompt((("user", prompt),))), seed)
    return "".join(scripted.WORDS[scripted.word_id(key, index)] for index in range(tokens))


async def pair(spawn: Spawn, engine: str = "scripted") -> tuple[InferenceNode, InferenceNode]:
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
    await eventually(lambda: worker.stats()["tokens_made"] == TOKENS, "the worker has made it all")
    # An answer that comes and goes meanwhile: what was on its way is here by then, and others are served.
    await client.complete("Hello", max_tokens=3, worker=worker.node_id)
    assert 0 < len(generation._conversation.waiting) < MOST_UNREAD < TOKENS
    assert generation.answer is None
    answer = await read(generation)
    assert answer.text == whole_text("Hello", 5, TOKENS)
    assert (answer.usage.completion_tokens, answer.attempts, answer.verified) == (TOKENS, 1, True)
    assert not any(client.stats().get(name, 0) for name in STALLED)


async def test_an_answer_whose_worker_waits_no_more_goes_on_when_it_is_read(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LINGER_S", 0.0)
    _, client = await pair(spawn)
    generation = client.generate("Hello", max_tokens=TOKENS, seed=5)
    await eventually(lambda: client.stats().get("attempts_lost", 0) == 1, "the worker lets the stream go")
    assert client.stats()["attempts"] == 1  # nobody begins while it is not read
    answer = await read(generation)
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
