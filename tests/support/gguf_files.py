"""Small Llama models, written as GGUF by the gguf package: known weights in the real format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants
from numpy.typing import NDArray

from llama_gossip.engine.tiny_random import byte_characters

LAYERS, HIDDEN, HEADS, KV_HEADS, INTERMEDIATE = 2, 64, 4, 2, 96
HEAD_DIM = HIDDEN // HEADS
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
WORDS = ("he", "ll", "hell", "llo", "hello", "in", "er", "the", "12", "123")

Weights = dict[str, NDArray[np.float32]]


@dataclass
class Vocabulary:
    """What the tokenizer keys of a GGUF file say."""

    model: str
    tokens: list[str]
    kinds: list[int]
    pre: str | None = None
    merges: list[str] = field(default_factory=list)
    scores: list[float] | None = None
    bos: int | None = None
    eos: int | None = None


def byte_level(pre: str) -> Vocabulary:
    """All bytes, merges that build a few words, two control tokens and one user-defined token."""
    tokens = list(byte_characters().values())
    merges = []
    for word in ("he", "ll", "hell", "Ġt", "in", "er", "lo", "the", "12", "123", "Ġthe"):
        left, right = _split(word, tokens)
        merges.append(f"{left} {right}")
        tokens.append(word)
    kinds = [NORMAL] * len(tokens)
    tokens += ["<|begin|>", "<|end|>", "<|mark|>"]
    kinds += [CONTROL, CONTROL, USER_DEFINED]
    return Vocabulary("gpt2", tokens, kinds, pre, merges, bos=len(tokens) - 3, eos=len(tokens) - 2)


def sentencepiece() -> Vocabulary:
    """Unknown, BOS, EOS, 256 byte tokens, single characters, and pieces with falling scores."""
    tokens, kinds = ["<unk>", "<s>", "</s>"], [UNKNOWN, CONTROL, CONTROL]
    scores = [0.0, 0.0, 0.0]
    for byte in range(256):
        tokens.append(f"<0x{byte:02X}>")
        kinds.append(BYTE)
        scores.append(0.0)
    pieces = ["▁t", "he", "▁the", "in", "er", "ll", "▁h", "▁he", "ell", "▁hell", "▁hello", "lo", "▁▁", "▁▁▁▁"]
    pieces += ["▁", *"etaoinshrdlucmfwypvbgkjqxz0123456789.,é", "世"]
    for rank, piece in enumerate(pieces):
        tokens.append(piece)
        kinds.append(NORMAL)
        scores.append(-float(rank))
    return Vocabulary("llama", tokens, kinds, scores=scores, bos=1, eos=2)


def _split(word: str, tokens: list[str]) -> tuple[str, str]:
    return next(
        (word[:i], word[i:]) for i in range(len(word) - 1, 0, -1) if {word[:i], word[i:]} <= {*tokens}
    )


def random_weights(vocabulary: int, seed: int, *, tied: bool = False) -> Weights:
    """In the hub's names and order."""
    rng = np.random.default_rng(seed)
    kv = KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (vocabulary, HIDDEN), "model.norm": (HIDDEN,)}
    if not tied:
        shapes["lm_head"] = (vocabulary, HIDDEN)
    for layer in range(LAYERS):
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN),
            "self_attn.v_proj": (kv, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return {
        f"{name}.weight": rng.normal(1.0 if "norm" in name else 0.0, 0.25, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


GGUF_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(hub: str) -> str:
    stem = hub.removesuffix(".weight")
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    if stem in top:
        return top[stem] + ".weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[part]}.weight"


def interleaved(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The row order that llama.cpp's rope wants: within a head, its halves' rows by turns."""
    heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
    if heads is None:
        return values
    order = [
        h * HEAD_DIM + half * HEAD_DIM // 2 + i
        for h in range(heads)
        for i in range(HEAD_DIM // 2)
        for half in (0, 1)
    ]
    return np.ascontiguousarray(values[order])


def write_gguf(
    path: Path,
    weights: Weights,
    vocabulary: Vocabulary,
    *,
    architecture: str = "llama",
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    down_kind: GGMLQuantizationType | None = None,
    template: str | None = None,
    rope_table: list[float] | None = None,
    leave_out: str | None = None,
) -> Path:
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer, vocabulary)
    if template is not None:
        writer.add_chat_template(template)
    for name, values in weights.items():
        stored = gguf_name(name)
        if stored == leave_out:
            continue
        stored_kind = kind if values.ndim > 1 else GGMLQuantizationType.F32
        if down_kind is not None and "ffn_down" in stored:  # real files keep some tensors finer
            stored_kind = down_kind
        data = quants.quantize(interleaved(name, values), stored_kind)
        writer.add_tensor(stored, data, raw_dtype=stored_kind)
    if rope_table is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(rope_table, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre is not None:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.bos is not None:
        writer.add_bos_token_id(vocabulary.bos)
    if vocabulary.eos is not None:
        writer.add_eos_token_id(vocabulary.eos)
