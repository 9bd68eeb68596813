"""Attention of the lean step: the same bits over many keys, by pieces of a prompt and by single tokens."""

from __future__ import annotations

from typing import Any

import pytest

from llama_gossip.engine.forward import BLOCK_TOKENS, Segment, Span
from llama_gossip.engine.llama_attention import KERNEL_KEYS, Attention, planned

torch = pytest.importorskip("torch")

KV_HEADS, SIZE, BLOCKS = 2, 64, 70
EDGE = KERNEL_KEYS  # a prompt's piece ends there, a token's keys grow into the kernel's next block


def attended(attention: Attention, pool: Any, q: Any, segments: list[Segment]) -> Any:
    """Rows by segment, as they were given."""
    plan = planned(segments, q.dtype)
    rows = attention(q[plan.places], pool, plan.calls)
    found = {}
    for number in plan.order:
        count = len(segments[number].ids)
        found[number], rows = rows[:count], rows[count:]
    return torch.cat([found[number] for number in range(len(segments))])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_a_token_over_many_keys_has_the_same_bits_in_a_prompt_and_alone(dtype: str, group: int) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(group)
    kind = getattr(torch, dtype)
    pool = torch.randn(2 * KV_HEADS, BLOCKS * BLOCK_TOKENS, SIZE, generator=generator).to(kind)
    q = torch.randn(BLOCKS * BLOCK_TOKENS, KV_HEADS * group * SIZE, generator=generator).to(kind)
    attention, span = Attention(KV_HEADS, group, SIZE), Span(0, BLOCKS)
    positions = [*range(EDGE - 20, EDGE + 20), *range(2 * EDGE - 3, 2 * EDGE + 40, 7)]
    alone = [attended(attention, pool, q, [Segment(span, p, [0], None)]) for p in positions]
    for begin, end in ((EDGE - 100, 2 * EDGE + 60), (EDGE - 37, 2 * EDGE + 40)):
        prompt = attended(attention, pool, q, [Segment(span, begin, [0] * (end - begin), None)])
        for position, wanted in zip(positions, alone, strict=True):
            assert torch.equal(prompt[position - begin : position - begin + 1], wanted), position
    together = attended(attention, pool, q, [Segment(span, p, [0], None) for p in positions])
    assert torch.equal(together, torch.cat(alone))
