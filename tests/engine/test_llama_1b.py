"""The whole shape of Llama-3.2-1B, random weights: what small layers show in CI holds for all sixteen.

Some 8 GB of memory and five minutes; `pytest -m long tests/engine` runs it.
"""

from __future__ import annotations

from typing import Any

import pytest

from llama_gossip.engine.forward import BLOCK_TOKENS, Segment, Span
from llama_gossip.engine.llama_check import check_model, is_exact
from tests.engine.llamas import GREEDY, LLAMA_32_1B, forward_of, some_ids, source_of

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
LAYERS, VOCABULARY = 16, 128_256
COMPARED = 32  # logits, the highest
OFF = {"bf16": 0.1, "q8": 0.15}  # rms of the difference to their spread; both sides compute in bf16


@pytest.fixture(scope="module")
def module() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**LLAMA_32_1B, num_hidden_layers=LAYERS, vocab_size=VOCABULARY, dtype="bfloat16")
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        made = LlamaForCausalLM(config).to(torch.bfloat16)
    made = made.to_empty(device="cpu").eval().requires_grad_(False)
    made.model.rotary_emb = type(made.model.rotary_emb)(config)  # fp32, and no weight
    generator = torch.Generator().manual_seed(5)
    for weight in made.parameters():
        if weight.dim() > 1:
            weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator)
        else:
            weight.fill_(1.0)
    made.tie_weights()
    return made


@pytest.mark.parametrize("dtype", OFF)
def test_sixteen_layers_are_what_transformers_computes_and_exact(module: Any, dtype: str) -> None:
    ids = some_ids(40)
    with torch.inference_mode():
        wanted = module(input_ids=torch.tensor([ids])).logits[0, -1].float()
    source = source_of(module)
    forward = forward_of(source, dtype)
    check_model(forward, source)
    assert is_exact(forward)
    forward.reserve(8)
    span = Span(1, -(-len(ids) // BLOCK_TOKENS))
    forward.run([Segment(span, 0, ids[:30], None)])
    found = forward.run([Segment(span, 30, ids[30:], GREEDY)])[0]
    best = wanted.topk(COMPARED).indices
    assert (found - wanted)[best].square().mean().sqrt() / wanted.std() <= OFF[dtype]
    assert sum(weight.numel() for weight in module.parameters()) == 1_235_814_400
