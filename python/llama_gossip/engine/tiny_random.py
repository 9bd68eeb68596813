"""tiny-random: a Llama of random weights from a fixed seed, with one token a byte. For tests only.

The law: the same recipe gives the same bits in every process and on every platform. Weights come from raw
integers of PCG64, whose stream numpy guarantees, scaled by powers of two, so that no rounding differs.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME: Final = "tiny-random"
NOTE: Final = "random weights: for tests"

BYTES: Final = 256  # token id = byte value below this
BOS, EOS, ROLE = "<|bos|>", "<|im_end|>", "<|im_start|>"
BOS_ID, ROLE_ID, EOS_ID = 256, 257, 258
VOCABULARY: Final = 259

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CONFIG: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "pad_token_id": EOS_ID,
}
SEED: Final = 20_25
RECIPE_VERSION: Final = 1
# Uniform in ±2^-2: enough spread in the logits that greedy decoding has a clear winner and sampling varies.
WEIGHT_LOG2: Final = -2
HEAD_LOG2: Final = 0  # the head is wider, or 259 logits would all be nearly equal


def digest() -> bytes:
    """sha256 over the recipe: equal for every copy of this model, whatever made it."""
    recipe = {
        "version": RECIPE_VERSION,
        "seed": SEED,
        "config": CONFIG,
        "log2": [WEIGHT_LOG2, HEAD_LOG2],
        "template": CHAT_TEMPLATE,
        "specials": [BOS, ROLE, EOS],
    }
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(b"llama-gossip/tiny-random\0" + text.encode()).digest()


def module() -> Any:
    """The fp32 LlamaForCausalLM on the CPU."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):  # building draws numbers that are overwritten below
        model = LlamaForCausalLM(LlamaConfig(**CONFIG, dtype="float32"))
    stream = np.random.PCG64(SEED)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if name.endswith("norm.weight"):
                weight.fill_(1.0)
                continue
            raw = stream.random_raw(weight.numel())
            signed = (raw >> np.uint64(40)).astype(np.int64) - (1 << 23)  # 24 bits fit fp32 exactly
            log2 = HEAD_LOG2 if name == "lm_head.weight" else WEIGHT_LOG2
            values = np.ldexp(signed.astype(np.float32), log2 - 23)
            weight.copy_(torch.from_numpy(values.reshape(tuple(weight.shape))))
    return model


def tokenizer() -> Tokenizer:
    """Byte b is token b; the three special tokens follow."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {char: byte for byte, char in byte_characters().items()}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (BOS, ROLE, EOS)])
    return made


def byte_characters() -> dict[int, str]:
    """The printable stand-in of each byte in byte-level vocabularies: itself in Latin-1, else U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return {byte: chr(byte) if byte in printable else chr(next(spare)) for byte in range(BYTES)}
