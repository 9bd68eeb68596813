"""The engine's tokens/s on one device, and their share of what its memory could give.

A decode step reads every weight once and the keys and values of every row: bytes over the device's bandwidth,
itself measured by a large copy, bound the steps a second. One row should come near it; many rows share the
weights' part. Figures by number of rows: `tokens_per_sN`, `bandwidth_shareN`; `speedup64` over one row.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, Final

from decoding import best, prompts
from own_engine import OwnEngine
from reporting import Figures
from shapes import LLAMA_1B, random_checkpoint

BARS: Final = {"bandwidth_share1": (">=", 0.5), "speedup64": (">=", 15.0)}
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPT_TOKENS: Final = 128
COPY_BYTES: Final = 1 << 30
COPIES: Final = 8


def measure(
    device: str,
    *,
    quick: bool,
    shape: dict[str, Any] = LLAMA_1B,
    dtype: str = "bf16",
    sizes: Sequence[int] = ROWS,
    copy_bytes: int = COPY_BYTES,
) -> Figures:
    from llama_gossip.engine import device as devices
    from llama_gossip.engine.torch_engine import TorchEngine

    placement = devices.place(device)
    checkpoint = random_checkpoint("random-1b", shape, device=placement.device, dtype=dtype)
    own = OwnEngine(TorchEngine(checkpoint, placement, max_concurrent=max(sizes)))
    new_tokens, rounds = (64, 2) if quick else (256, 4)
    bandwidth = copied_bytes_per_s(placement.device, copy_bytes)
    figures: Figures = {"device": placement.label, "copy_gb_per_s": bandwidth / 1e9}
    chance = random.Random(1)
    try:
        for rows in sizes:
            runs = []
            for _ in range(rounds + 1):
                asked = prompts(rows, PROMPT_TOKENS, shape["vocab_size"], chance)
                runs.append(own.run(asked, new_tokens))
            rate = best(runs[1:]).tokens_per_s  # the first run warms
            length = PROMPT_TOKENS + new_tokens / 2
            read = weight_bytes(checkpoint.module) + rows * length * cache_bytes(shape, dtype)
            figures[f"tokens_per_s{rows}"] = rate
            figures[f"bandwidth_share{rows}"] = rate / rows * read / bandwidth
    finally:
        own.close()
    if 1 in sizes and 64 in sizes:
        figures["speedup64"] = figures["tokens_per_s64"] / figures["tokens_per_s1"]
    return figures


def weight_bytes(module: Any) -> int:
    """Tied weights once: the head reads what the embedding looks up."""
    return sum(weight.nbytes for weight in module.parameters())


def cache_bytes(shape: dict[str, Any], dtype: str) -> int:
    """Keys and values of one token."""
    head_dim = shape.get("head_dim", shape["hidden_size"] // shape["num_attention_heads"])
    width = {"fp32": 4, "bf16": 2}[dtype]
    return int(2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head_dim * width)


def copied_bytes_per_s(device: str, size: int) -> float:
    """Read and written, the best of a few."""
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    least_s = float("inf")
    for _ in range(COPIES):
        _settle(device)
        began_s = time.perf_counter()
        target.copy_(source)
        _settle(device)
        least_s = min(least_s, time.perf_counter() - began_s)
    return 2 * size / least_s


def _settle(device: str) -> None:
    """A GPU works behind the caller's back."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)
