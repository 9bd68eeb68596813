"""Footprint: what a model's weights will take in memory, told from headers. No torch, no weight is read.

The law: what is said is near what the engine says of itself once it has loaded (EngineInfo.memory_bytes), in
every precision that it can be asked for; of a file that is still to be fetched the size alone is known.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from . import models
from .budget import Need
from .gguf_llama import PLAIN, is_tied, quantisation_of
from .gguf_reader import GgufFile, GgufTensor
from .hub_folder import HubFolder
from .llama_load import AUTO, suited
from .llama_weights import QUANTISED
from .loading import suitable_dtype

WEIGHT_BYTES: Final = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "q8": 1.25, "q4": 0.625}  # with scale and zero
ROW_BYTES: Final = 1.125  # a value of an embedding that was quantised: eight bits, and a scale for each 32
FOUR_BIT_KINDS: Final = ("Q4_0", "Q4_1")
TABLES: Final = ("token_embd.weight", "output.weight")


def need_of(spec: str, *, device: str, dtype: str | None, models_dir: Path | None = None) -> Need:
    """device: "cpu", "cuda:0"; dtype as for `load_engine`. Raises what `models.glance` does."""
    found = models.glance(spec, models_dir)
    asked = None if dtype == AUTO else dtype
    if found.file is not None:
        return Need(found.name, _of_file(GgufFile(found.file), device, asked))
    if found.folder is not None:
        return Need(found.name, _of_folder(found.folder, device, asked))
    return Need(found.name, found.size)


def _of_file(file: GgufFile, device: str, asked: str | None) -> int:
    quantisation, _ = quantisation_of(file)
    parameters = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    dtype = asked or (suited(quantisation, parameters) if device == "cpu" else "bf16")
    if dtype not in QUANTISED:
        return int(parameters * WEIGHT_BYTES.get(dtype, 4.0))
    total = 0.0
    for name, tensor in file.tensors.items():
        count = math.prod(tensor.shape)
        if name in TABLES:
            total += count * (4.0 if tensor.kind in PLAIN else ROW_BYTES)
        else:
            total += count * WEIGHT_BYTES[_precision(tensor, dtype, quantisation)]
    head = file.tensors.get("token_embd.weight" if is_tied(file) else "output.weight")
    return int(total + _coarse_head(math.prod(head.shape) if head is not None else 0))


def _precision(tensor: GgufTensor, dtype: str, quantisation: str) -> str:
    """In a 4-bit file whatever is stored finer keeps eight bits."""
    finer = quantisation.startswith("q4") and tensor.kind not in (*FOUR_BIT_KINDS, *PLAIN)
    return "q8" if dtype == "q8" or finer else "q4"


def _of_folder(facts: HubFolder, device: str, asked: str | None) -> int:
    dtype = asked or suitable_dtype(facts, device)
    if dtype not in QUANTISED:
        return int(facts.parameters * WEIGHT_BYTES.get(dtype, 4.0))
    table = math.prod(_count(facts, key) for key in ("vocab_size", "hidden_size"))
    tables = table if facts.config.get("tie_word_embeddings") else 2 * table
    matrices = (facts.parameters - tables) * WEIGHT_BYTES[dtype]
    return int(matrices + tables * WEIGHT_BYTES.get(facts.stored_dtype, 4.0) + _coarse_head(table))


def _count(facts: HubFolder, key: str) -> int:
    value = facts.config.get(key)
    return value if isinstance(value, int) else 0


def _coarse_head(values: int) -> float:
    """The first of a quantised model's two stages."""
    return values * WEIGHT_BYTES["q4"]
