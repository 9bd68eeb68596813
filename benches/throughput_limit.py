"""The engine's tokens/s on one device, and their share of what its memory could give.

A decode step reads every weight once and the keys and values of every row: bytes over the device's bandwidth,
itself measured by a large copy, bound the steps a second. One row should come near it; many rows share the
weights' part. Figures by number of rows: `tokens_per_sN`, `bandwidth_shareN`; `speedup64` over one row.
On a GPU the Llama-3.2-1B shape in bf16, on a CPU the 7 M one in fp32, of random weights; the requests are
greedy and come through the engine's own interface.

    benches/throughput_limit.py [--device cuda[:N]|cpu] [--quick] [--json] [--save]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads, as benches/engine.py

from decoding import prompts
from llama_gossip.engine import device as devices
from own_engine import OwnEngine
from reporting import Figures, save, tell
from shapes import LLAMA_1B, SMALL, random_checkpoint

BARS: Final = {"bandwidth_share1": (">=", 0.5), "speedup64": (">=", 15.0)}
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPT_TOKENS: Final = 128
COPY_BYTES: Final = 1 << 30
COPIES: Final = 8


@dataclass(frozen=True, slots=True)
class Plan:
    shape: dict[str, Any]
    dtype: str
    sizes: Sequence[int]  # numbers of rows
    new_tokens: int
    rounds: int
    copy_bytes: int = COPY_BYTES


def plan(device: str, *, quick: bool) -> Plan:
    if device == "cpu":
        return Plan(
            SMALL, "fp32", ROWS[:3] if quick else ROWS, 16 if quick else 64, 1 if quick else 3, 1 << 27
        )
    return Plan(LLAMA_1B, "bf16", ROWS, 64 if quick else 256, 2 if quick else 4)


def measure(device: str, plan: Plan) -> Figures:
    """The device that computed stands in the figures: a GPU that is missing leaves the CPU."""
    from llama_gossip.engine.torch_engine import TorchEngine

    placement = devices.place(device)
    checkpoint = random_checkpoint("random", plan.shape, device=placement.device, dtype=plan.dtype)
    engine = TorchEngine(checkpoint, placement, max_concurrent=max(plan.sizes))
    own = OwnEngine(engine)
    bandwidth = copied_bytes_per_s(placement.device, plan.copy_bytes)
    info = engine.info
    figures: Figures = {
        "device": info.device,
        "numerics_id": info.numerics_id,
        "notes": list(info.notes),
        "copy_gb_per_s": bandwidth / 1e9,
    }
    chance = random.Random(1)
    try:
        for rows in plan.sizes:
            runs = []
            for _ in range(plan.rounds + 1):
                asked = prompts(rows, PROMPT_TOKENS, plan.shape["vocab_size"], chance)
                runs.append(own.run(asked, plan.new_tokens))
            rate = max(run.tokens_per_s for run in runs[1:])  # the first run warms
            length = PROMPT_TOKENS + plan.new_tokens / 2
            read = weight_bytes(checkpoint.module) + rows * length * cache_bytes(plan.shape, plan.dtype)
            figures[f"tokens_per_s{rows}"] = rate
            figures[f"bandwidth_share{rows}"] = rate / rows * read / bandwidth
    finally:
        own.close()
    if {1, 64} <= set(plan.sizes):
        figures["speedup64"] = figures["tokens_per_s64"] / figures["tokens_per_s1"]
    return figures


def told(figures: Figures) -> Figures:
    """Says on stderr what computed: the figures may be of another device than was asked for."""
    for line in (f"measured on {figures['device']} ({figures['numerics_id']})", *figures["notes"]):
        print(line, file=sys.stderr)
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


def main() -> int:
    """Prints a table, with --json one object on stdout. A missed bar is reported, not an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--quick", action="store_true", help="the short form, minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the table on stderr")
    parser.add_argument("--save", action="store_true", help="keep the figures in benches/results/")
    options = parser.parse_args()
    devices.prepare_environment()
    device = devices.place(options.device).device
    figures = told(measure(options.device, plan(device, quick=options.quick)))
    tell(figures, BARS, as_json=options.json)
    if options.save:
        print(f"kept in {save('throughput_limit', figures)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
