"""Llama in GGUF and in the hub's layout: names, configuration, and the rope order of q and k rows.

The law: every tensor that the configuration asks for is present with its shape, and no tensor is left over;
what this module does not know (experts, other ropes, other architectures) is refused, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llama_gossip.errors import ModelUnavailable

from .gguf_reader import GgufFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROPE_FACTORS: Final = "rope_freqs.weight"  # llama.cpp's table for Llama 3's long context
LLAMA3_FACTORS: Final = (8.0, 32.0)  # Llama 3.1; Llama 3.2
LLAMA3_ROPE: Final[dict[str, float]] = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FACTOR_TOLERANCE: Final = 1e-3  # relative; the table is stored as fp32, the candidates lie a factor 4 apart
MAX_LAYERS: Final = 1024
PLAIN: Final = ("F32", "F16", "BF16")
DTYPE_WORDS: Final = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}

TOP: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK: Final = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The sizes that fix every tensor's shape."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    def expected(self, *, tied: bool) -> dict[str, tuple[int, ...]]:
        """GGUF name to row-major shape of all weights."""
        h, q, kv, i = (
            self.hidden,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            self.intermediate,
        )
        block: dict[str, tuple[int, ...]] = {
            "attn_norm": (h,), "ffn_norm": (h,), "attn_q": (q, h), "attn_k": (kv, h), "attn_v": (kv, h),
            "attn_output": (h, q), "ffn_gate": (i, h), "ffn_up": (i, h), "ffn_down": (h, i),
        }  # fmt: skip
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (self.vocabulary, h),
            "output_norm.weight": (h,),
        }
        if not tied:
            shapes["output.weight"] = (self.vocabulary, h)
        for layer in range(self.layers):
            shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
        return shapes


def shape_of(file: GgufFile) -> LlamaShape:
    """Raises ModelUnavailable for anything but a plain Llama with all its tensors and no others."""
    metadata = file.metadata
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise _refused(file, f"its architecture is {architecture!r}, only Llama is read from GGUF")
    if metadata.get("split.count", 1) != 1:
        raise _refused(file, "it is one part of a split file: join the parts with llama.cpp's gguf-split")
    if metadata.get("llama.expert_count", 0):
        raise _refused(file, "it is a mixture of experts, only plain Llama is read from GGUF")
    heads, hidden = _count(file, "attention.head_count"), _count(file, "embedding_length")
    shape = LlamaShape(
        layers=_count(file, "block_count", limit=MAX_LAYERS),
        hidden=hidden,
        intermediate=_count(file, "feed_forward_length"),
        heads=heads,
        kv_heads=_count(file, "attention.head_count_kv", default=heads),
        head_dim=_count(file, "attention.key_length", default=hidden // heads),
        vocabulary=_vocabulary(file),
    )
    _check_tensors(file, shape.expected(tied=is_tied(file)))
    return shape


def is_tied(file: GgufFile) -> bool:
    return "output.weight" not in file.tensors


def _vocabulary(file: GgufFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if embedding is None or len(embedding.shape) != 2:
        raise _refused(file, "its weights are missing (no token_embd.weight)")
    if not isinstance(tokens, list) or len(tokens) > embedding.shape[0]:
        raise _refused(file, "its vocabulary and its embedding do not fit")
    return embedding.shape[0]


def _check_tensors(file: GgufFile, expected: Mapping[str, tuple[int, ...]]) -> None:
    present = set(file.tensors) - {ROPE_FACTORS}
    if missing := sorted(set(expected) - present):
        raise _refused(file, f"{len(missing)} of its weights are missing, {missing[0]} first")
    if foreign := sorted(present - set(expected)):
        raise _refused(file, f"it holds weights that a plain Llama has not, {foreign[0]} first")
    for name, shape in expected.items():
        if file.tensors[name].shape != shape:
            raise _refused(file, f"{name} has shape {file.tensors[name].shape} where {shape} is due")


def hub_name(name: str) -> str:
    """`blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`."""
    stem, _, kind = name.rpartition(".")
    match stem.split("."):
        case ["blk", layer, part]:
            return f"model.layers.{layer}.{BLOCK[part]}.{kind}"
        case _:
            return f"{TOP[stem]}.{kind}"


def in_hub_order(name: str, values: NDArray[np.float32], shape: LlamaShape) -> NDArray[np.float32]:
    """Undoes llama.cpp's interleaving of the two rope halves within each head of q and k."""
    match name.split("."):
        case ["blk", _, "attn_q", _]:
            heads = shape.heads
        case ["blk", _, "attn_k", _]:
            heads = shape.kv_heads
        case _:
            return values
    pairs = values.reshape(heads, shape.head_dim // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(values.shape)


def hub_config(file: GgufFile, shape: LlamaShape) -> dict[str, Any]:
    """What transformers' LlamaConfig needs, as config.json says it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": _count(file, "context_length"),
        "rms_norm_eps": _real(file, "attention.layer_norm_rms_epsilon", 1e-5),
        "rope_parameters": _rope(file, shape),
        "tie_word_embeddings": is_tied(file),
    }


def _rope(file: GgufFile, shape: LlamaShape) -> dict[str, Any]:
    theta = _real(file, "rope.freq_base", 10_000.0)
    if _count(file, "rope.dimension_count", default=shape.head_dim) != shape.head_dim:
        raise _refused(file, "it turns only a part of each head by rope")
    kind = file.metadata.get("llama.rope.scaling.type", "none")
    if table := file.tensors.get(ROPE_FACTORS):
        found = [float(value) for value in file.values(table).reshape(-1)]
        for factor in LLAMA3_FACTORS:
            if _close(found, _llama3_table(theta, shape.head_dim, factor)):
                return {"rope_type": "llama3", "rope_theta": theta, "factor": factor, **LLAMA3_ROPE}
        raise _refused(file, "its rope table is none of Llama 3's")
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": _real(file, "rope.scaling.factor", 1.0)}
    if kind != "none":
        raise _refused(file, f"its rope scaling is {kind!r}")
    return {"rope_type": "default", "rope_theta": theta}


def _llama3_table(theta: float, head_dim: int, factor: float) -> list[float]:
    """By how much Llama 3 slows each frequency: not at all, fully, or smoothly between."""
    low, high = LLAMA3_ROPE["low_freq_factor"], LLAMA3_ROPE["high_freq_factor"]
    trained = LLAMA3_ROPE["original_max_position_embeddings"]
    table = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / head_dim)
        smooth = min(1.0, max(0.0, (trained / wavelength - low) / (high - low)))
        table.append(1 / ((1 - smooth) / factor + smooth))
    return table


def _close(found: list[float], wanted: list[float]) -> bool:
    return len(found) == len(wanted) and all(
        math.isclose(a, b, rel_tol=FACTOR_TOLERANCE) for a, b in zip(found, wanted, strict=True)
    )


def quantisation_of(file: GgufFile) -> tuple[str, str]:
    """The kind of most weights ("q4_1", or "none"), and the dtype of the unquantised ones ("fp32")."""
    counts: dict[str, int] = {}
    for tensor in file.tensors.values():
        if len(tensor.shape) > 1:
            counts[tensor.kind] = counts.get(tensor.kind, 0) + math.prod(tensor.shape)
    kind = max(counts, key=lambda name: counts[name])
    return ("none", DTYPE_WORDS[kind]) if kind in PLAIN else (kind.lower(), "fp32")


def _count(file: GgufFile, key: str, *, default: int | None = None, limit: int = 1 << 24) -> int:
    value = file.metadata.get(f"llama.{key}", default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
        raise _refused(file, f"llama.{key} is {value!r}")
    return value


def _real(file: GgufFile, key: str, default: float) -> float:
    value = file.metadata.get(f"llama.{key}", default)
    if not isinstance(value, float | int) or not math.isfinite(value) or value <= 0:
        raise _refused(file, f"llama.{key} is {value!r}")
    return float(f"{value:.7g}")  # stored as fp32: 1e-05, not 9.999999747378752e-06


def _refused(file: GgufFile, what: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{file.path} cannot be served: {what}",
        hint="take a GGUF of a Llama model, or a model folder with *.safetensors",
    )
