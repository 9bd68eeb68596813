"""A checkpoint is whole: the right model, in memory, with what its engine must know."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from llama_gossip.engine import models, tiny_random
from llama_gossip.engine.checkpoint import Checkpoint, load_checkpoint
from llama_gossip.engine.models import ModelFolder
from llama_gossip.errors import ConfigError, ModelUnavailable, UsageError
from tests.support.gguf_files import byte_level, random_weights, sentencepiece, write_gguf
from tests.support.llamacpp import llamacpp
from tests.support.models import shared_models_dir

SEED = 17
START_S = 60.0  # of a core; a conversion or a second hashing would take longer still on a slow one
TINY_ROOT = "e6b1649571241b6d5e784deb7dbc99e7cc40e3db7e7fdd33782c70b109d3958d"
TINY_WEIGHTS = "3ad303c4634d054eb49a0e4fc4ad59356ba612daeed6a6fe75be9dad572f267f"


@pytest.fixture(scope="module")
def real(smollm2: ModelFolder) -> Checkpoint:
    return load_checkpoint(smollm2.name, models_dir=shared_models_dir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vocabulary = byte_level("smollm")
    source = write_gguf(tmp_path / "m.gguf", random_weights(len(vocabulary.tokens), SEED), vocabulary)
    return Path(shutil.copytree(models.resolve(str(source), tmp_path).path, tmp_path / "model"))


def greedy(checkpoint: Checkpoint, ids: list[int], count: int) -> list[int]:
    made = checkpoint.module.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
    return [int(token) for token in made[0, len(ids) :]]


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_default_model_knows_the_capital_of_france(real: Checkpoint) -> None:
    assert real.chat_template is not None
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = jinja2.Template(real.chat_template).render(messages=chat, add_generation_prompt=True)
    ids = real.tokenizer.encode(text, add_special_tokens=False).ids
    assert "Paris" in real.tokenizer.decode(greedy(real, ids, 12))


def test_the_default_models_facts(real: Checkpoint, smollm2: ModelFolder) -> None:
    assert (real.bos_token, real.bos_id, real.eos_token, real.eos_ids) == (
        "<|im_start|>",
        1,
        "<|im_end|>",
        (2,),
    )
    assert (real.context, real.parameters, real.add_bos) == (8192, 134_515_008, False)
    assert (real.quantisation, real.source_dtype, real.dtype, real.device) == ("q4_1", "fp32", "fp32", "cpu")
    assert real.model_digest == smollm2.digest.root
    assert not real.module.training
    assert not any(weight.requires_grad for weight in real.module.parameters())
    assert real.module.lm_head.weight.data_ptr() == real.module.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("spec", ["smollm2-135m", "tiny-random"])
def test_rope_frequencies_stay_fp32_in_half_precision(spec: str) -> None:
    made = load_checkpoint(spec, dtype="bf16", models_dir=shared_models_dir())
    assert {weight.dtype for weight in made.module.parameters()} == {torch.bfloat16}
    assert made.module.model.rotary_emb.inv_freq.dtype == torch.float32
    assert made.dtype == "bf16"


@pytest.mark.parametrize(
    "vocabulary", [byte_level("smollm"), sentencepiece()], ids=["byte-level", "sentencepiece"]
)
def test_the_converted_model_answers_as_llamacpp_does(vocabulary: Any, tmp_path: Path) -> None:
    """Same file, another engine, fp32 weights: the most likely tokens and their probabilities agree."""
    source = write_gguf(tmp_path / "m.gguf", random_weights(len(vocabulary.tokens), SEED), vocabulary)
    made = load_checkpoint(str(source), models_dir=tmp_path)
    ids = made.tokenizer.encode("hello the 12 hello in the", add_special_tokens=False).ids
    with llamacpp(source) as judge:
        body = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": 5, "cache_prompt": False}
        theirs = judge.post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
    with torch.no_grad():
        ours = torch.log_softmax(made.module(torch.tensor([ids])).logits[0, -1].double(), -1)
    top = ours.topk(5)
    assert [int(i) for i in top.indices] == [entry["id"] for entry in theirs], f"seed {SEED}"
    assert np.allclose([float(v) for v in top.values], [entry["logprob"] for entry in theirs], atol=0.02)


def test_tiny_random_is_the_same_in_every_process() -> None:
    code = (
        "import torch, transformers.models.llama.modeling_llama, hashlib, time; "
        "from llama_gossip.engine.checkpoint import load_checkpoint; began = time.process_time(); "
        "c = load_checkpoint('tiny-random'); took = time.process_time() - began; h = hashlib.sha256(); "
        "[h.update(n.encode() + w.numpy().tobytes()) for n, w in sorted(c.module.named_parameters())]; "
        "print(c.model_digest.hex(), h.hexdigest(), took)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    root, weights, took = done.stdout.split()
    assert (root, weights) == (TINY_ROOT, TINY_WEIGHTS)
    print(f"made in {float(took):.2f} s of a core")


def test_tiny_random_is_what_its_recipe_says() -> None:
    made = load_checkpoint("tiny-random")
    assert made.notes == ("random weights: for tests",)
    assert (made.context, made.dtype, made.eos_ids) == (4096, "fp32", (tiny_random.EOS_ID,))
    every_byte = bytes(range(256)).decode("latin-1")
    ids = made.tokenizer.encode("é\n👩<|im_end|>" + every_byte, add_special_tokens=False).ids
    assert ids[:8] == [*"é\n👩".encode(), tiny_random.EOS_ID]
    assert ids[8:] == list(every_byte.encode())


def test_building_tiny_random_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(SEED)
    before = torch.get_rng_state()
    load_checkpoint("tiny-random")
    assert torch.equal(torch.get_rng_state(), before)


def test_missing_weights_in_a_folder_are_named(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelUnavailable, match=r"1 weights are missing, model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        load_checkpoint(str(folder), models_dir=tmp_path)


def test_weights_of_another_shape_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", intermediate_size=64)
    with pytest.raises(ModelUnavailable) as caught:
        load_checkpoint(str(folder), models_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_the_model_does_not_use_are_noted(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["vision.extra.weight"] = np.zeros((2, 2), dtype=np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_checkpoint(str(folder), models_dir=tmp_path).notes == (
        "1 stored weights are no part of the model and stay unused",
    )


@pytest.mark.parametrize("kind", ["clip", "no-such-model", None, 7, ["llama"]])
def test_an_architecture_that_cannot_be_run_is_refused_by_name(
    folder: Path, tmp_path: Path, kind: Any
) -> None:
    edit(folder / "config.json", model_type=kind)
    with pytest.raises(ModelUnavailable, match=re.escape(repr(kind))):
        load_checkpoint(str(folder), models_dir=tmp_path)


def test_a_broken_tokenizer_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {"type": "Nonsense"}}')
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json is no tokenizer") as caught:
        load_checkpoint(str(folder), models_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_all_end_ids_of_the_generation_config_reach_the_engine(folder: Path, tmp_path: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=[5, 6, 7])
    assert load_checkpoint(str(folder), models_dir=tmp_path).eos_ids == (5, 6, 7)


def test_a_tokenizer_that_adds_bos_by_its_own_rule_is_noticed(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos = made.token_to_id("<|begin|>")
    made.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", bos)]
    )
    made.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["add_bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found = load_checkpoint(str(folder), models_dir=tmp_path)
    assert (found.add_bos, found.bos_id) == (True, bos)


def test_an_unknown_dtype_and_an_absent_device_are_one_sentence_each() -> None:
    with pytest.raises(UsageError, match="fp32, bf16, fp16"):
        load_checkpoint("tiny-random", dtype="int3")
    with pytest.raises(ConfigError, match="no device 'nonsense'"):
        load_checkpoint("tiny-random", device="nonsense")


@pytest.mark.slow
def test_a_second_start_does_nothing_again_that_the_first_has_done(smollm2: ModelFolder) -> None:
    """Process start, imports and load together, as a worker meets them.

    CPU seconds: on a busy machine wall time says nothing of us. Twelve on the machine where this was written.
    """
    code = (
        "import torch; torch.set_num_threads(1); from pathlib import Path; "
        "from llama_gossip.engine.checkpoint import load_checkpoint; "
        f"print(load_checkpoint({smollm2.name!r}, models_dir=Path({str(shared_models_dir())!r})).parameters)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert int(done.stdout) == 134_515_008
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{cpu_s:.1f} s of a core")
    assert cpu_s <= START_S
