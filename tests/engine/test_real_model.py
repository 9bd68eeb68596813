"""smollm2-135m, a real instruct Llama, through the torch engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llama_gossip.engine import device as devices
from llama_gossip.engine.checkpoint import Checkpoint, load_checkpoint
from llama_gossip.engine.torch_engine import TorchEngine
from llama_gossip.protocol.messages import ChatPrompt, FinishReason, IdsPrompt, NumericsClass
from tests.engine.driving import DATE, Collector, job, started
from tests.engine.test_torch_engine import greedy_by_transformers

FRANCE = ChatPrompt((("user", "What is the capital of France?"),))
FOX = ChatPrompt((("user", "Tell a short story about a fox, with emoji 🦊 and 日本語."),))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint("smollm2-135m", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def served(checkpoint: Checkpoint) -> Iterator[tuple[TorchEngine, Collector]]:
    engine = TorchEngine(checkpoint, threads=1)
    with started(engine) as seen:
        yield engine, seen


Served = tuple[TorchEngine, Collector]


def test_it_knows_the_capital_of_france(served: Served) -> None:
    engine, seen = served
    engine.submit(job(1, FRANCE, temperature=0.0, max_tokens=30))
    answer = seen.answer(1)
    assert "Paris" in answer.text
    assert answer.done.finish_reason is FinishReason.STOP
    exact = devices.pinned_kernels("cpu")
    assert engine.info.numerics_class is (NumericsClass.EXACT if exact else NumericsClass.FP32)
    assert engine.info.model_digest is not None


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_cut_answer_goes_on_with_the_same_tokens_and_text(served: Served, temperature: float) -> None:
    engine, seen = served
    base = 100 if temperature else 200
    options: dict[str, Any] = {"temperature": temperature, "max_tokens": 32, "seed": 7}
    engine.submit(job(base, FOX, **options))
    whole = seen.answer(base)
    for number, count in enumerate((1, 13, 31), base + 1):
        engine.submit(job(number, FOX, resume=whole.resume_at(count), **options))
        rest = seen.answer(number)
        assert whole.ids[:count] + rest.ids == whole.ids
        assert "".join(whole.texts[:count]) + rest.text == whole.text
        assert rest.done.text_digest == whole.done.text_digest


def test_greedy_text_is_that_of_generate(served: Served, checkpoint: Checkpoint) -> None:
    engine, seen = served
    rendered = engine.batch._reader.render(FOX.messages, DATE)
    ids = checkpoint.tokenizer.encode(rendered, add_special_tokens=False).ids
    no_end = tuple((token_id, -1e9) for token_id in checkpoint.eos_ids)
    engine.submit(job(300, IdsPrompt(tuple(ids)), temperature=0.0, max_tokens=24, logit_bias=no_end))
    answer = seen.answer(300)
    expected = greedy_by_transformers(checkpoint, ids, 24)
    assert answer.ids == expected
    assert answer.text == checkpoint.tokenizer.decode(list(expected), skip_special_tokens=True)


def test_two_requests_at_once_equal_their_solo_runs(served: Served) -> None:
    engine, seen = served
    options: dict[str, Any] = {"temperature": 0.7, "max_tokens": 12}
    for number, prompt in ((400, FRANCE), (401, FOX)):
        engine.submit(job(number, prompt, **options))
        seen.answer(number)
    for number, prompt in ((402, FRANCE), (403, FOX)):
        engine.submit(job(number, prompt, **options))
    assert seen.answer(402).ids == seen.answer(400).ids
    assert seen.answer(403).ids == seen.answer(401).ids
