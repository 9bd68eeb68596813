"""Models of random weights for benches: a shape, a word for every id, and nothing to download."""

from __future__ import annotations

from typing import Any

from llama_gossip.engine import tiny_random
from llama_gossip.engine.checkpoint import Checkpoint
from llama_gossip.engine.digest import ModelDigest

SMALL: dict[str, Any] = {  # 7 M weights: ENGINE.md's small shape, where overheads show
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 704,  # a multiple of 64: silu over 688 rounds by a row's place, and nothing is exact
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
LLAMA_1B: dict[str, Any] = {  # Llama-3.2-1B
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
WORDS = 4096  # that have a text; other ids have none


def random_checkpoint(name: str, config: dict[str, Any], *, device: str, dtype: str) -> Checkpoint:
    """A Llama of this shape. Greedy answers of random weights mean nothing and cost what others cost."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    with torch.device(device):
        module = LlamaForCausalLM(
            LlamaConfig(**config, bos_token_id=None, eos_token_id=None, pad_token_id=None)
        )
    for weight in module.parameters():  # weights only: rope frequencies stay fp32
        weight.data = weight.data.to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    tokenizer = tiny_random.tokenizer()
    tokenizer.add_tokens([f" word{n}" for n in range(tiny_random.VOCABULARY, WORDS)])
    root = bytes(32)
    return Checkpoint(
        name=name,
        module=module.eval().requires_grad_(False),
        tokenizer=tokenizer,
        chat_template=None,
        bos_token="",
        eos_token="",
        bos_id=None,
        eos_ids=(),
        add_bos=False,
        context=config["max_position_embeddings"],
        digest=ModelDigest(root, root, root, root),
        quantisation="none",
        source_dtype=dtype,
        dtype=dtype,
        device=device,
        parameters=sum(weight.numel() for weight in module.parameters()),
    )
