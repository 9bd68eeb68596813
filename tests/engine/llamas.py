"""Llamas of random weights in the shapes of real ones, for the lean step and for transformers alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_gossip.engine.forward import Draw
from llama_gossip.engine.llama_check import probed_pad
from llama_gossip.engine.llama_config import llama_config
from llama_gossip.engine.llama_sources import PlainSource
from llama_gossip.engine.llama_step import LlamaForward
from llama_gossip.engine.llama_weights import read_weights

GREEDY = Draw(0.0, 0, 0)
VOCABULARY = 512  # real ones have far more: rows of one matrix
PADS = {"q4": 0, "q8": 0, "bf16": 2, "fp32": 4}  # rows that were enough on every CPU seen

LLAMA_32_1B: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "max_position_embeddings": 131_072,
}
TINYLLAMA: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "max_position_embeddings": 2048,
}
SMOL: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    "max_position_embeddings": 8192,
}
SHAPES = {"llama-3.2-1b": LLAMA_32_1B, "tinyllama": TINYLLAMA, "smollm2-135m": SMOL}


def module_of(name: str, layers: int = 1) -> Any:
    """A transformers LlamaForCausalLM of random fp32 weights, its logits some units apart."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPES[name], num_hidden_layers=layers, vocab_size=VOCABULARY, dtype="float32")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module = LlamaForCausalLM(config).eval().requires_grad_(False)
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, weight.shape[1] ** -0.5)
    return module


def source_of(module: Any) -> PlainSource:
    return PlainSource(llama_config(module.config.to_dict()), module.state_dict())


def forward_of(source: PlainSource, dtype: str, blocks: int = 64) -> LlamaForward:
    weights = read_weights(source, dtype)
    pad = probed_pad(weights, dtype)
    assert pad is not None, "no number of rows makes this CPU's kernels exact"
    made = LlamaForward(source.config, weights, dtype, pad=pad, mode="exact")
    made.reserve(blocks)
    return made


def some_ids(count: int, salt: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(salt).integers(0, VOCABULARY, count)]
