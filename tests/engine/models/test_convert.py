"""Conversion gives the very weights, whole or not at all, and only for plain Llama."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, quants
from safetensors.numpy import load_file

from llama_gossip.engine import models
from llama_gossip.engine.convert import CONVERTER_VERSION, MANIFEST, Converted, converted, source_digest
from llama_gossip.engine.digest import DigestCache
from llama_gossip.engine.models import ModelFolder
from llama_gossip.engine.progress import silent
from llama_gossip.errors import ModelUnavailable
from tests.support.gguf_files import (
    Weights,
    byte_level,
    gguf_name,
    interleaved,
    random_weights,
    sentencepiece,
    write_gguf,
)

SEED = 3
LLAMA3_TEXTS = ("<|begin_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")


def convert(source: Path, models_dir: Path) -> Converted:
    return converted(source, models_dir, cache=DigestCache(None), verify=False, progress=silent)


@pytest.fixture
def weights() -> Weights:
    return random_weights(len(byte_level("smollm").tokens), SEED)


def test_the_weights_come_out_as_they_went_in(weights: Weights, tmp_path: Path) -> None:
    made = convert(write_gguf(tmp_path / "m.gguf", weights, byte_level("smollm")), tmp_path)
    found = load_file(made.path / "model.safetensors")
    assert found.keys() == weights.keys()
    for name, values in weights.items():
        assert np.array_equal(found[name], values), name
    assert (made.quantisation, made.source_dtype) == ("none", "fp32")


def test_quantised_rows_are_turned_back_after_dequantising(weights: Weights, tmp_path: Path) -> None:
    kind = GGMLQuantizationType.Q4_1
    made = convert(write_gguf(tmp_path / "m.gguf", weights, byte_level("smollm"), kind=kind), tmp_path)
    found = load_file(made.path / "model.safetensors")
    for name, values in weights.items():
        if values.ndim > 1:
            due = quants.dequantize(quants.quantize(interleaved(name, values), kind), kind)
            assert np.array_equal(interleaved(name, found[name]), due), name
    assert made.quantisation == "q4_1"


def test_the_real_models_weights_are_bit_equal_to_transformers_own_reading(smollm2: ModelFolder) -> None:
    """One tensor of each role, through transformers' tensor processor and the gguf package's reader."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

    processor = TENSOR_PROCESSORS["llama"](config={"num_attention_heads": 9, "num_key_value_heads": 3})
    theirs = {tensor.name: tensor for tensor in GGUFReader(smollm2.source).tensors}
    ours = load_file(smollm2.path / "model.safetensors")
    block = "model.layers.7."
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"]
    names = [
        "model.embed_tokens",
        "model.norm",
        *(block + p for p in [*parts, "mlp.gate_proj", "mlp.up_proj"]),
    ]
    names += [block + "input_layernorm", block + "post_attention_layernorm"]
    for stem in names:
        name = stem + ".weight"
        tensor = theirs[gguf_name(name)]
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        due = processor.process(weights=values, name=tensor.name).weights
        assert np.array_equal(ours[name], due), name


def test_the_real_models_configuration_is_the_published_one(smollm2: ModelFolder) -> None:
    config = json.loads((smollm2.path / "config.json").read_text())
    published = {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "eos_token_id": 2, "bos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    }  # fmt: skip
    assert {key: config[key] for key in published} == published


def test_the_digest_is_of_the_source_and_the_converter_not_of_what_came_out(smollm2: ModelFolder) -> None:
    manifest = json.loads((smollm2.path / MANIFEST).read_text())
    source = manifest["source"]
    template = json.loads((smollm2.path / "tokenizer_config.json").read_text())["chat_template"]
    assert smollm2.digest == source_digest(source["size"], source["sha256"], template)
    assert manifest["converter"] == CONVERTER_VERSION
    assert smollm2.digest.root.hex() == "7c9ea6278a024f9f4f53745ff6baf5dd2a9626ba4a9c133998e5a935689eb984"


def test_one_file_under_two_names_is_one_model(weights: Weights, tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "a.gguf", weights, byte_level("smollm"))
    second = tmp_path / "b.gguf"
    second.write_bytes(first.read_bytes())
    assert convert(first, tmp_path).path == convert(second, tmp_path).path


def test_llama_3s_rope_table_becomes_its_scaling_factors(weights: Weights, tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 32.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=rope)
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    table = [10_000.0 ** (-pair / 8) / float(slowed[pair]) for pair in range(8)]
    source = write_gguf(tmp_path / "m.gguf", weights, byte_level("llama-bpe"), rope_table=table)
    found = json.loads((convert(source, tmp_path).path / "config.json").read_text())
    assert found["rope_parameters"] == rope


def test_another_rope_table_is_refused(weights: Weights, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", weights, byte_level("smollm"), rope_table=[2.0] * 8)
    with pytest.raises(ModelUnavailable, match="rope table"):
        convert(source, tmp_path)


def test_all_of_llama_3s_end_tokens_end_an_answer(tmp_path: Path) -> None:
    vocabulary = byte_level("llama-bpe")
    first = len(vocabulary.tokens)
    vocabulary.tokens += LLAMA3_TEXTS
    vocabulary.kinds += [3] * len(LLAMA3_TEXTS)
    vocabulary.bos, vocabulary.eos = first, first + 1
    source = write_gguf(tmp_path / "m.gguf", random_weights(len(vocabulary.tokens), SEED), vocabulary)
    made = convert(source, tmp_path)
    ends = json.loads((made.path / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [first + 1, first + 2, first + 3]


def test_a_sentencepiece_model_asks_for_its_bos(tmp_path: Path) -> None:
    vocabulary = sentencepiece()
    source = write_gguf(tmp_path / "m.gguf", random_weights(len(vocabulary.tokens), SEED), vocabulary)
    config = json.loads((convert(source, tmp_path).path / "tokenizer_config.json").read_text())
    assert (config["add_bos_token"], config["bos_token"], config["eos_token"]) == (True, "<s>", "</s>")


def test_missing_weights_are_named_and_nothing_is_left(weights: Weights, tmp_path: Path) -> None:
    lost = "blk.1.ffn_up.weight"
    source = write_gguf(tmp_path / "m.gguf", weights, byte_level("smollm"), leave_out=lost)
    with pytest.raises(ModelUnavailable, match=re.escape(f"1 of its weights are missing, {lost} first")):
        convert(source, tmp_path)
    assert [path for path in (tmp_path / "converted").iterdir() if path.is_dir()] == []


def test_another_architecture_is_refused_by_name(weights: Weights, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", weights, byte_level("smollm"), architecture="qwen2")
    with pytest.raises(ModelUnavailable, match="'qwen2'") as caught:
        models.resolve(str(source), tmp_path)
    assert caught.value.exit_code == 4


def test_weights_that_a_plain_llama_has_not_are_refused(weights: Weights, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", weights, byte_level("smollm"))
    source.write_bytes(source.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xy.weight"))
    with pytest.raises(ModelUnavailable, match="missing"):
        convert(source, tmp_path)
