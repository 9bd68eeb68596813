"""The lean Llama step: the model that transformers computes, and the same bits however a row is stepped."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_gossip.engine.forward import Segment, Span
from llama_gossip.engine.llama_attention import head_parts, planned
from llama_gossip.engine.llama_check import check_model, is_exact
from llama_gossip.engine.llama_sources import PlainSource
from llama_gossip.engine.llama_step import LlamaForward
from llama_gossip.engine.llama_weights import PlainRows
from llama_gossip.errors import EngineError
from tests.engine.llamas import GREEDY, PADS, SHAPES, forward_of, module_of, some_ids, source_of

torch = pytest.importorskip("torch")

OFF = {"fp32": 1e-4, "bf16": 0.03, "q8": 0.04, "q4": 0.4}  # rms of the difference to the spread of logits
COMPARED = 32  # the highest logits: a head of two stages has only those from more than four bits


@pytest.fixture(scope="module", params=SHAPES)
def module(request: pytest.FixtureRequest) -> Any:
    torch.set_num_threads(1)
    return module_of(request.param)


@pytest.fixture(scope="module")
def source(module: Any) -> PlainSource:
    return source_of(module)


@pytest.fixture(scope="module", params=PADS)
def forward(source: PlainSource, request: pytest.FixtureRequest) -> LlamaForward:
    return forward_of(source, request.param)


def stepped(forward: LlamaForward, ids: list[int], cuts: tuple[int, ...], span: Span, salt: int = 0) -> Any:
    """The last logits of a row that came in by these cuts, each beside other rows."""
    for number, (start, stop) in enumerate(zip((0, *cuts), (*cuts, len(ids)), strict=True)):
        company = [
            Segment(Span(40 + 4 * other, 4), 0, some_ids(1 + 3 * other, salt + other), GREEDY)
            for other in range((salt + number) % 5)
        ]
        row = Segment(span, start, ids[start:stop], GREEDY if stop == len(ids) else None)
        logits = forward.run([*company, row])
    return logits[-1]


def test_logits_are_those_of_transformers(module: Any, forward: LlamaForward) -> None:
    ids = some_ids(80)
    with torch.inference_mode():
        wanted = module(input_ids=torch.tensor([ids])).logits[0, -1]
    found = stepped(forward, ids, (70, 79), Span(1, 6))
    best = wanted.topk(COMPARED).indices
    off = (found - wanted)[best].square().mean().sqrt() / wanted.std()
    assert off <= OFF[forward.dtype]


def test_a_row_has_the_same_bits_however_it_is_stepped(forward: LlamaForward) -> None:
    ids = some_ids(90, 1)
    alone = stepped(forward, ids, (), Span(0, 10))
    for number, cuts in enumerate(((89,), (1, 2, 3), (17, 60, 88, 89), tuple(range(80, 90)))):
        assert torch.equal(stepped(forward, ids, cuts, Span(3 * number, 10), number), alone), cuts


def test_a_row_has_the_same_bits_on_any_number_of_threads(forward: LlamaForward) -> None:
    """Three: rows of no shape divide by it. Enough of them that element-wise operations are shared."""
    ids = some_ids(30, 2)
    alone = stepped(forward, ids, (), Span(0, 10))
    torch.set_num_threads(3)
    try:
        found = stepped(forward, ids, (), Span(0, 10))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found, alone)


def test_rows_that_decode_together_each_equal_their_lone_run(forward: LlamaForward) -> None:
    """Spans evenly spaced and not, long and short: some share a call, some do not."""
    spans = [Span(0, 4), Span(4, 4), Span(8, 4), Span(12, 1), Span(13, 9), Span(30, 9)]
    lengths = [20, 33, 47, 9, 100, 60]
    prompts = [some_ids(length, number) for number, length in enumerate(lengths)]
    alone = [stepped(forward, ids, (), Span(0, 10)) for ids in prompts]
    forward.run([Segment(s, 0, ids[:-1], None) for s, ids in zip(spans, prompts, strict=True)])
    together = forward.run(
        [Segment(s, len(ids) - 1, ids[-1:], GREEDY) for s, ids in zip(spans, prompts, strict=True)]
    )
    for found, wanted in zip(together, alone, strict=True):
        assert torch.equal(found, wanted)


def test_a_copied_prefix_goes_on_like_a_computed_one(forward: LlamaForward) -> None:
    ids = some_ids(40, 3)
    whole = stepped(forward, ids, (20,), Span(0, 3))
    forward.copy(Span(0, 3), Span(20, 3), 32)
    assert torch.equal(forward.run([Segment(Span(20, 3), 32, ids[32:], GREEDY)])[0], whole)


def test_the_next_tenant_of_a_span_sees_nothing_of_the_last(source: PlainSource) -> None:
    forward = forward_of(source, "bf16")
    ids = some_ids(30, 4)
    wanted = stepped(forward, ids, (), Span(0, 2))
    table = forward.weights.embedding(torch.arange(forward.vocabulary))
    table[7] = float("nan")
    forward.weights = replace(forward.weights, embedding=PlainRows(table))
    bad, good = Segment(Span(0, 2), 0, [7] * 32, GREEDY), Segment(Span(2, 2), 0, ids, GREEDY)
    poisoned = forward.run([bad, good])
    assert not torch.isfinite(poisoned[0]).all()
    assert torch.equal(poisoned[1], wanted)
    assert torch.equal(stepped(forward, ids, (), Span(0, 2)), wanted)


def test_a_step_without_draws_gives_no_logits(forward: LlamaForward) -> None:
    assert forward.run([Segment(Span(0, 2), 0, some_ids(5), None)]).shape == (0, forward.vocabulary)


def test_a_pool_takes_memory_only_where_it_is_used(source: PlainSource) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    forward = forward_of(source, "bf16", blocks=1)
    before = resident()
    forward.reserve(2**30 // (16 * forward.bytes_per_token))  # 1 GiB
    stepped(forward, some_ids(30), (), Span(0, 2))
    assert resident() - before < 2**28
    forward.reserve(1)


def test_query_heads_are_dealt_to_calls_of_at_most_three() -> None:
    parts = {group: head_parts(group) for group in (1, 2, 3, 4, 5, 7, 8)}
    assert parts == {1: (1,), 2: (2,), 3: (3,), 4: (2, 2), 5: (3, 2), 7: (3, 2, 2), 8: (3, 3, 2)}


def test_rows_in_even_spans_share_a_call() -> None:
    even = [Segment(Span(4 * n, 4), 20 + n, [1], GREEDY) for n in range(5)]
    plan = planned([*reversed(even), Segment(Span(30, 4), 0, [1, 2, 3], None)], torch.bfloat16)
    assert [(call.count, call.step, call.length) for call in plan.calls] == [(3, 0, 16), (5, 64, 32)]
    tight = [Segment(Span(0, 1), 3, [1], GREEDY), Segment(Span(1, 9), 100, [1], GREEDY)]
    assert [call.count for call in planned(tight, torch.bfloat16).calls] == [1, 1]


def test_what_is_exact_is_seen_at_load(forward: LlamaForward, source: PlainSource) -> None:
    assert forward.pad <= PADS[forward.dtype]
    check_model(forward, source)
    assert is_exact(forward)
    forward.reserve(64)


def test_a_step_that_computes_another_model_is_refused(forward: LlamaForward, source: PlainSource) -> None:
    first, *others = forward.weights.layers
    turned = replace(first, attention_norm=-first.attention_norm)
    weights = replace(forward.weights, layers=(turned, *others))
    wrong = LlamaForward(forward.config, weights, forward.dtype, pad=forward.pad)
    with pytest.raises(EngineError, match="another model"):
        check_model(wrong, source)
