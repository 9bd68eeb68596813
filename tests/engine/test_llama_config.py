"""Llama configurations: rope as transformers turns it, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llama_gossip.engine.llama_config import Unsuitable, llama_config
from tests.engine.llamas import SHAPES

BASE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 1000,
    "num_hidden_layers": 2,
    **SHAPES["tinyllama"],
}
LLAMA3 = SHAPES["llama-3.2-1b"]["rope_parameters"]
ROPES = [
    {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}},
    {"rope_parameters": LLAMA3},
]


@pytest.mark.parametrize("rope", ROPES)
def test_frequencies_are_those_of_transformers(rope: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    hub = transformers.LlamaConfig(**{**BASE, **rope})
    wanted = LlamaRotaryEmbedding(hub).inv_freq.numpy()
    np.testing.assert_allclose(llama_config({**BASE, **rope}).frequencies(), wanted, rtol=1e-6)


def test_older_folders_name_their_rope_otherwise() -> None:
    older = {key: value for key, value in BASE.items() if key != "rope_parameters"}
    older |= {"rope_theta": 500_000.0, "rope_scaling": {**LLAMA3, "type": "llama3"}}
    del older["rope_scaling"]["rope_theta"], older["rope_scaling"]["rope_type"]
    found = llama_config(older).frequencies()
    assert np.array_equal(found, llama_config({**BASE, "rope_parameters": LLAMA3}).frequencies())
    del older["rope_theta"], older["rope_scaling"]
    assert llama_config(older).rope == {"rope_theta": 10_000.0, "rope_type": "default"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "mistral"}, "mistral"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "part"),
        ({"num_key_value_heads": 5}, "heads"),
        ({"head_dim": 40}, "40"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"vocab_size": "many"}, "vocab_size"),
    ],
)
def test_what_is_no_plain_llama_is_told(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Unsuitable, match=word):
        llama_config({**BASE, **change})


def test_only_four_and_eight_bits_need_whole_blocks() -> None:
    transformers = pytest.importorskip("transformers")
    from llama_gossip.engine.llama_weights import read_weights
    from tests.engine.llamas import source_of

    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 3, "num_key_value_heads": 1}
    hub = transformers.LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=100)
    source = source_of(transformers.LlamaForCausalLM(hub).requires_grad_(False))
    assert read_weights(source, "fp32").layers[0].down.width == 80
    with pytest.raises(Unsuitable, match="48"):
        read_weights(source, "q4")
