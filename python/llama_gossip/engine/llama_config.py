"""Llama configurations: the sizes, the norm and the rope of a plain Llama, read from a hub config.

The law: what the lean step cannot compute exactly as the model was trained (biases, another activation, a
rope of another kind) is Unsuitable, with the reason; it is never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .gguf_llama import LlamaShape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK: Final = 32  # weights that share a scale in ggml's formats: rows must be whole numbers of them
PLAIN_ROPES: Final = ("default", "linear", "llama3")


class Unsuitable(Exception):
    """This checkpoint is no plain Llama; the engine over transformers serves it."""


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    shape: LlamaShape
    eps: float  # of the norms
    tied: bool  # the head is the embedding
    rope: Mapping[str, Any]  # as `rope_parameters` says it

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.shape.heads // self.shape.kv_heads

    def frequencies(self) -> NDArray[np.float32]:
        """Angle by which each pair of a head turns a token, shape [head_dim / 2]."""
        import numpy as np

        size = self.shape.head_dim
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        powers = np.power(np.float32(self.rope["rope_theta"]), exponents)
        plain: NDArray[np.float32] = np.asarray(1.0 / powers, dtype=np.float32)
        match self.rope["rope_type"]:
            case "linear":
                return np.asarray(plain / np.float32(self.rope["factor"]), dtype=np.float32)
            case "llama3":
                return _llama3(plain, self.rope)
            case _:
                return plain


def _llama3(plain: NDArray[np.float32], rope: Mapping[str, Any]) -> NDArray[np.float32]:
    """Llama 3's long context: slow turns are slowed, fast ones stay, those between are blended."""
    import numpy as np

    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    trained, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
    wavelength = 2 * math.pi / plain.astype(np.float64)
    smooth = np.clip((trained / wavelength - low) / (high - low), 0.0, 1.0)
    return ((1 - smooth) * plain / factor + smooth * plain).astype(np.float32)


def llama_config(config: Mapping[str, Any]) -> LlamaConfig:
    """From a hub `config.json`. Raises Unsuitable."""
    if config.get("model_type") != "llama":
        raise Unsuitable(f"its type is {config.get('model_type')!r}")
    for key, plain in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if config.get(key, plain) != plain:
            raise Unsuitable(f"{key} is {config[key]!r}")
    heads = _count(config, "num_attention_heads")
    hidden = _count(config, "hidden_size")
    shape = LlamaShape(
        layers=_count(config, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_count(config, "intermediate_size"),
        heads=heads,
        kv_heads=_count(config, "num_key_value_heads", heads),
        head_dim=_count(config, "head_dim", hidden // heads),
        vocabulary=_count(config, "vocab_size"),
    )
    if heads % shape.kv_heads or shape.head_dim % 16:
        raise Unsuitable(f"{heads} heads of {shape.head_dim} over {shape.kv_heads}")
    return LlamaConfig(
        shape=shape,
        eps=float(config.get("rms_norm_eps", 1e-6)),
        tied=bool(config.get("tie_word_embeddings", False)),
        rope=_rope(config),
    )


def check_blocks(shape: LlamaShape) -> None:
    """Raises Unsuitable where four and eight bits cannot be packed."""
    for size in (shape.hidden, shape.intermediate, shape.heads * shape.head_dim):
        if size % BLOCK:
            raise Unsuitable(f"rows of {size} weights are no whole number of blocks of {BLOCK}")


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or value <= 0:
        raise Unsuitable(f"{key} is {value!r}")
    return value


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of older folders."""
    theta = config.get("rope_theta", 10_000.0)
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = {"rope_theta": theta, **stated}
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if rope["rope_type"] not in PLAIN_ROPES:
        raise Unsuitable(f"its rope is of type {rope['rope_type']!r}")
    if float(rope.get("partial_rotary_factor", 1.0)) != 1.0:
        raise Unsuitable("it turns only a part of each head by rope")
    return rope
