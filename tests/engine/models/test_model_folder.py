"""A model folder is data: what is broken is named, what would run code is refused."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from llama_gossip.engine import models
from llama_gossip.engine.hub_folder import read_folder
from llama_gossip.errors import ModelUnavailable
from tests.support.gguf_files import byte_level, random_weights, write_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama's folder, as a conversion makes it."""
    where = tmp_path_factory.mktemp("whole")
    vocabulary = byte_level("smollm")
    source = write_gguf(where / "m.gguf", random_weights(len(vocabulary.tokens), 1), vocabulary)
    return models.resolve(str(source), where).path


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def refusal(folder: Path) -> ModelUnavailable:
    with pytest.raises(ModelUnavailable) as caught:
        models.resolve(str(folder), folder.parent / "models")
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 4
    return caught.value


def test_a_whole_folder_tells_its_facts(folder: Path) -> None:
    facts = read_folder(folder)
    assert (facts.stored_dtype, facts.context, facts.special("bos")) == ("fp32", 256, "<|begin|>")
    assert facts.parameters == sum(
        w.size for w in random_weights(len(byte_level("smollm").tokens), 1).values()
    )


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "weights.pkl", "x.ckpt"]
)
def test_pickled_weights_are_refused_unopened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "pickled" in refusal(folder).message


def test_a_pickle_beside_safetensors_is_ignored(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert models.resolve(str(folder), folder.parent).path == folder


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_asks_to_run_its_own_code_is_refused(folder: Path, name: str) -> None:
    edit(folder / name, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    assert "auto_map" in refusal(folder).message


def test_auto_map_deep_inside_a_config_is_refused_too(folder: Path) -> None:
    edit(folder / "config.json", text_config={"auto_map": {"AutoConfig": "evil.Config"}})
    assert "auto_map" in refusal(folder).message


def test_an_attention_from_the_hub_is_refused(folder: Path) -> None:
    edit(folder / "config.json", _attn_implementation="somebody/kernel")
    assert "attn_implementation" in refusal(folder).message


def test_quantised_folders_are_refused(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq"})
    assert "quantised" in refusal(folder).message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name.removeprefix("model") in refusal(folder).message


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"a": ' * 100_000, "\udcff"])
def test_a_config_that_is_no_json_object_is_one_sentence(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "config.json" in refusal(folder).message


@pytest.mark.parametrize("keep", [0, 7, 8, 9, 200, -1])
def test_truncated_weights_are_refused_before_anything_maps_them(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    assert "is damaged" in refusal(folder).message


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}},
        {"a": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32"}},
        {"a": 3},
        [1, 2],
    ],
)
def test_a_weight_header_that_lies_is_refused(folder: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert "is damaged" in refusal(folder).message


def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    edit(folder / "model.safetensors.index.json", weight_map={"a": "../outside.safetensors"})
    assert "outside its folder" in refusal(folder).message


def test_a_shard_that_the_index_names_but_the_folder_lacks_is_named(folder: Path) -> None:
    edit(folder / "model.safetensors.index.json", weight_map={"a": "model-00002-of-00002.safetensors"})
    assert "model-00002-of-00002.safetensors" in refusal(folder).message


def test_weights_without_tensors_are_refused(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")
    assert "no weights" in refusal(folder).message


@pytest.mark.parametrize(
    ("template", "due"),
    [
        ("{{ one }}", "{{ one }}"),
        ([{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        (7, None),
    ],
)
def test_chat_templates_of_older_folders_are_found(folder: Path, template: Any, due: str | None) -> None:
    edit(folder / "tokenizer_config.json", chat_template=template)
    assert read_folder(folder).chat_template == due


def test_a_template_file_wins_over_the_tokenizer_config(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template="old")
    (folder / "chat_template.jinja").write_text("new")
    assert read_folder(folder).chat_template == "new"


def test_end_ids_come_from_the_generation_config_first(folder: Path) -> None:
    edit(folder / "config.json", eos_token_id=5)
    edit(folder / "generation_config.json", eos_token_id=[7, 8, 9])
    assert read_folder(folder).end_ids() == (7, 8, 9)
    (folder / "generation_config.json").unlink()
    assert read_folder(folder).end_ids() == (5,)
