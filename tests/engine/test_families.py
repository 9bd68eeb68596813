"""Families of models with tiny random weights: packed steps equal `generate`, or the check catches them."""

from __future__ import annotations

from typing import Any

import pytest

from llama_gossip.engine import selfcheck
from llama_gossip.engine.forward import Draw, Segment, Span
from llama_gossip.engine.loading import own_attention
from llama_gossip.engine.packed import PackedForward

VOCABULARY = 200
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,  # enough for a clear winner
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
MOE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 12},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 12, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 12, "query_pre_attn_scalar": 16},
    "phi3": {},
    "olmo2": {},
    "granite": {},
    "smollm3": {},
    "mixtral": MOE,
    "qwen3_moe": MOE,
    "gpt2": GPT2,
    "gpt_neox": {},
}
BROKEN: dict[str, dict[str, Any]] = {
    "gpt_oss": MOE | {"sliding_window": 12},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    "mamba": {"state_size": 8},
}


def made(family: str, options: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    torch.set_num_threads(1)
    config = AutoConfig.for_model(family, **{**COMMON, **options})
    asked = {"dtype": torch.float32, **own_attention(config.to_dict())}
    return AutoModelForCausalLM.from_config(config, **asked).eval().requires_grad_(False)


def by_generate(module: Any, ids: list[int], count: int) -> list[int]:
    import torch

    with torch.inference_mode():
        out = module.generate(
            torch.tensor([ids]),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        )
    return [int(token) for token in out[0, len(ids) :]]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_steps_equal_generate(family: str) -> None:
    module = made(family, FAMILIES[family])
    forward = PackedForward(module, device="cpu", exact=False)
    assert selfcheck.deviation(forward, selfcheck.reference(module, VOCABULARY, "cpu")) < 1e-3
    prompts = [
        [(7 * i + 3) % 190 + 5 for i in range(20)],
        [11, 12, 13],
        [(5 * i) % 190 + 5 for i in range(30)],
    ]
    spans = [Span(0, 3), Span(3, 2), Span(5, 4)]
    forward.reserve(16)
    draw = Draw(0.0, 0, 0)
    rows = [list(prompt) for prompt in prompts]
    no_end = [2]

    def step(cuts: list[tuple[int, int, int]]) -> None:
        segments = [
            Segment(spans[row], begin, rows[row][begin:end], draw if end == len(rows[row]) else None)
            for row, begin, end in cuts
        ]
        logits = forward.run(segments).clone()
        logits[:, no_end] = -1e9
        drawn = [row for row, _, end in cuts if end == len(rows[row])]
        for row, winner in zip(drawn, logits.argmax(-1).tolist(), strict=True):
            rows[row].append(winner)

    step([(0, 0, 20), (1, 0, 3)])
    step([(0, 20, 21), (1, 3, 4), (2, 0, 17)])
    step([(0, 21, 22), (1, 4, 5), (2, 17, 30)])
    for _ in range(9):
        step([(row, len(rows[row]) - 1, len(rows[row])) for row in range(3)])
    for prompt, row in zip(prompts, rows, strict=True):
        expected = by_generate(module, prompt, len(row) - len(prompt))
        assert row[len(prompt) :] == expected
    assert len({token for row in rows for token in row[-8:]}) > 3, "this configuration repeats itself"


@pytest.mark.parametrize("family", BROKEN)
def test_what_cannot_be_packed_is_caught(family: str) -> None:
    module = made(family, BROKEN[family])
    plain = selfcheck.reference(module, VOCABULARY, "cpu")
    try:
        forward = PackedForward(module, device="cpu", exact=False)
        off = selfcheck.deviation(forward, plain)
    except Exception as error:  # noqa: BLE001  as torch_engine: whatever a model raises, it is not served so
        print(f"{family}: {error!r}")
        return
    assert off > 1e-3
