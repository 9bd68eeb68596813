"""Several models in one worker: both at work at once, each as if it were alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from gguf import GGMLQuantizationType as Kind

from llama_gossip import Answer, InferenceNode, ModelUnavailable, UsageError, load_engine, load_engines
from llama_gossip.directories import Directories
from llama_gossip.engine.device import prepare_environment
from tests.support.gguf_files import byte_level, random_weights, write_gguf

from .conftest import Spawn, eventually

prepare_environment()  # before torch comes: equal answers rest on it

PROMPT = "Once upon a time"
ASK = {"max_tokens": 24, "temperature": 0.8, "ignore_eos": True, "raw": True}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    vocabulary = byte_level("llama-bpe")
    file = tmp_path_factory.mktemp("models") / "other.gguf"
    return str(write_gguf(file, random_weights(len(vocabulary.tokens), seed=1), vocabulary, kind=Kind.Q8_0))


@pytest.fixture
async def worker(other: str, dirs: Directories) -> AsyncIterator[InferenceNode]:
    engines = await asyncio.to_thread(load_engines, ["tiny-random", other], device="cpu", threads=1)
    node = await InferenceNode.spawn("worker", engine=engines, dirs=dirs)
    await node.join()
    yield node
    await node.shutdown()


async def alone(spec: str, dirs: Directories, seeds: range) -> list[Answer]:
    """What a worker with this model alone answers."""
    engine = await asyncio.to_thread(load_engine, spec, device="cpu", threads=1)
    async with InferenceNode.open(
        name="alone", engine=engine, dirs=dirs, network=f"net of {engine.info.model}"
    ) as node:
        return [await node.complete(PROMPT, seed=seed, **ASK) for seed in seeds]


async def test_two_models_answer_at_once_as_they_do_alone(
    worker: InferenceNode, other: str, spawn: Spawn, dirs: Directories
) -> None:
    client = await spawn("client")
    await eventually(
        lambda: [p.models for p in client.peers()] == [("tiny-random", "other")], "both are seen"
    )
    seeds = range(3)
    names = ("tiny-random", "other")
    asked = [client.complete(PROMPT, model=name, seed=seed, **ASK) for seed in seeds for name in names]
    together = await asyncio.gather(*asked)
    for place, spec in enumerate(("tiny-random", other)):
        lone = await alone(spec, dirs, seeds)
        mine = together[place::2]
        assert [answer.text for answer in mine] == [answer.text for answer in lone]
        assert {answer.model_digest for answer in mine} == {answer.model_digest for answer in lone}
        assert {answer.model for answer in mine} == {names[place]}
        assert all(answer.verified and answer.attempts == 1 for answer in mine)
    assert together[0].model_digest != together[1].model_digest
    with pytest.raises(ModelUnavailable, match="third"):
        await client.complete(PROMPT, model="third", **ASK)
    assert await worker.drain()


async def test_a_node_takes_no_two_engines_of_one_name(dirs: Directories) -> None:
    pair = load_engine("scripted"), load_engine("scripted")
    with pytest.raises(UsageError, match="'scripted'"):
        await InferenceNode.spawn("node", engine=pair, dirs=dirs)
    async with InferenceNode.open(name="node", engine=pair[0], dirs=dirs) as node:  # nothing had begun
        assert (await node.complete("Hello", max_tokens=3)).text
    pair[1].close()
