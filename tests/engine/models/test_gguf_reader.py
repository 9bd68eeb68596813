"""The GGUF reader believes no length that does not fit into the file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, quants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_gossip.engine.gguf_reader import GgufFile
from llama_gossip.engine.models import ModelFolder
from llama_gossip.errors import ModelUnavailable
from tests.support.gguf_files import byte_level, gguf_name, interleaved, random_weights, write_gguf

SEED = 11


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    vocabulary = byte_level("smollm")
    weights = random_weights(len(vocabulary.tokens), SEED, tied=True)
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", weights, vocabulary).read_bytes()


def opened(folder: Path, data: bytes) -> GgufFile:
    path = folder / "file.gguf"
    path.write_bytes(data)
    return GgufFile(path)


def test_metadata_and_tensors_are_what_the_gguf_package_reads(smollm2: ModelFolder) -> None:
    ours, theirs = GgufFile(smollm2.source), GGUFReader(smollm2.source)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    for name in (
        "llama.rope.freq_base",
        "tokenizer.chat_template",
        "tokenizer.ggml.token_type",
        "general.languages",
    ):
        assert ours.metadata[name] == fields[name].contents(), name
    described = {
        t.name: (tuple(int(n) for n in reversed(t.shape)), t.tensor_type.name) for t in theirs.tensors
    }
    assert {t.name: (t.shape, t.kind) for t in ours.tensors.values()} == described


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_each_kind_of_tensor_is_dequantised_as_the_gguf_package_does(kind: str, tmp_path: Path) -> None:
    chosen = GGMLQuantizationType[kind]
    vocabulary = byte_level("smollm")
    weights = random_weights(len(vocabulary.tokens), SEED)
    file = GgufFile(write_gguf(tmp_path / "k.gguf", weights, vocabulary, kind=chosen))
    name = "model.layers.0.self_attn.q_proj.weight"
    due = quants.dequantize(quants.quantize(interleaved(name, weights[name]), chosen), chosen)
    found = file.values(file.tensors[gguf_name(name)])
    assert found.dtype == np.float32
    assert np.array_equal(found, due)


@pytest.mark.parametrize("part", [0.0, 0.00001, 0.0001, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 0.999999])
def test_a_file_cut_anywhere_is_refused_in_one_sentence(small: bytes, part: float, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        opened(tmp_path, small[: int(len(small) * part)])
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_every_cut_within_the_first_kilobyte_is_refused(small: bytes, tmp_path: Path) -> None:
    for end in range(1024):
        with pytest.raises(ModelUnavailable):
            opened(tmp_path, small[:end])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_give_a_file_or_a_sentence_never_anything_else(
    data: st.DataObject, small: bytes, tmp_path: Path
) -> None:
    changed = bytearray(small)
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, 8192))] = data.draw(st.integers(0, 255))
    try:
        file = opened(tmp_path, bytes(changed))
    except ModelUnavailable:
        return
    for tensor in file.tensors.values():
        assert tensor.offset + tensor.size <= len(changed)


def header(*, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(64), "does not begin with GGUF"),
        (header(version=1), "version 1"),
        (header(version=3 << 24), "version 50331648"),
        (header(tensors=1 << 60), "tensors"),
        (header(keys=1 << 60), "metadata keys"),
        (header(keys=1) + struct.pack("<Q", 1 << 40), "bytes of text"),
        (header(keys=1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 4, 1 << 40), "array elements"),
        (
            header(keys=1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1),
            "array of unknown type 9",
        ),
        (header(keys=1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99), "unknown type 99"),
        (header(keys=1) + struct.pack("<Q", 2) + b"\xff\xfe" + bytes(8), "not UTF-8"),
        (header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 9), "dimensions"),
        (header(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 1 << 62, 0, 0), "impossible shape"),
        (header(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 777, 0), "unknown type 777"),
        (header(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 31, 3, 0), "impossible shape"),
        (header(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 0, 1 << 63), "are needed"),
    ],
)
def test_claims_that_cannot_be_true_are_refused_by_name(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=says):
        opened(tmp_path, data)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no such file"):
        GgufFile(tmp_path / "nowhere.gguf")
