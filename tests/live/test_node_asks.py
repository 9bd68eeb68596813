"""What a node's user can ask for beyond text: logprobs, acceptance, an answer that fits."""

from __future__ import annotations

import pytest

from llama_gossip import ModelUnavailable
from llama_gossip.submission import Sampling, prompt_of, submission

from .conftest import Spawn
from .test_node import pair

pytestmark = pytest.mark.live


async def test_tokens_bring_as_many_alternatives_as_were_asked_for(spawn: Spawn) -> None:
    _, client = await pair(spawn)
    tokens = [token async for token in client.generate("Hello", max_tokens=5, logprobs=2)]
    for token in tokens:
        assert token.logprob is not None
        assert token.logprob.logprob == 0.0
        assert len(token.logprob.top) == 2
        assert token.logprob.top[0] == (token.text, 0.0)
    assert [token.logprob async for token in client.generate("Hello", max_tokens=5)] == [None] * 5


async def test_acceptance_comes_before_the_first_token_and_a_refusal_in_its_place(spawn: Spawn) -> None:
    worker, client = await pair(spawn, "scripted:delay_ms=50,prefill_chunk=2")
    generation = client.generate("Hello, this takes some steps", max_tokens=2)
    await generation.accepted()
    assert generation.worker == worker.node_id.hex()
    assert generation.arrived() == []
    first = await anext(generation)
    assert first.index == 0
    refused = client.generate("Hello", model="unheard-of")
    with pytest.raises(ModelUnavailable):
        await refused.accepted()


async def test_what_has_arrived_is_had_at_once_and_only_once(spawn: Spawn) -> None:
    _, client = await pair(spawn)
    generation = client.generate("Hello", max_tokens=40)
    seen = []
    async for token in generation:
        seen += [token, *generation.arrived()]
    assert [token.index for token in seen] == list(range(40))


async def test_an_answer_may_fit_the_context(spawn: Spawn) -> None:
    _, client = await pair(spawn, "scripted:context=64")
    sampling = Sampling(max_tokens=1_000, fit=True)
    prompt = prompt_of("x" * 60, raw=True)
    answer = await client.submit(
        submission(prompt, sampling, model=None, priority=5, deadline_s=None, worker=None)
    ).complete()
    assert (answer.usage.completion_tokens, answer.finish_reason) == (4, "length")
