"""Footprints: what headers say of a model's memory is what its weights take once they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from llama_gossip.engine.footprint import need_of
from llama_gossip.engine.llama_load import load_llama
from llama_gossip.engine.llama_weights import read_weights
from llama_gossip.errors import ModelUnavailable
from tests.support.gguf_files import byte_level, random_weights, write_gguf

NEAR = 0.02  # norms are counted here and not there; in models of use they vanish


def gguf(folder: Path, kind: Kind, *, tied: bool = False) -> Path:
    vocabulary = byte_level("llama-bpe")
    weights = random_weights(len(vocabulary.tokens), seed=1, tied=tied)
    return write_gguf(folder / f"{kind.name}.gguf", weights, vocabulary, kind=kind)


def loaded_bytes(spec: str, dtype: str | None, models_dir: Path) -> int:
    checkpoint = load_llama(spec, dtype=dtype, models_dir=models_dir)
    return read_weights(checkpoint.source(), checkpoint.dtype).nbytes


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.F16])
@pytest.mark.parametrize("dtype", [None, "q4", "q8", "bf16", "fp32"])
def test_a_gguf_file_takes_what_its_header_says(
    tmp_path: Path, kind: Kind, dtype: str | None, tied: bool
) -> None:
    spec = str(gguf(tmp_path, kind, tied=tied))
    need = need_of(spec, device="cpu", dtype=dtype, models_dir=tmp_path)
    assert need.model == kind.name
    assert need.weight_bytes == pytest.approx(loaded_bytes(spec, dtype, tmp_path), rel=NEAR)


@pytest.mark.parametrize("dtype", [None, "q4", "q8", "bf16", "fp32"])
def test_a_folder_takes_what_its_header_says(tmp_path: Path, dtype: str | None) -> None:
    from llama_gossip.engine.models import resolve

    folder = str(resolve(str(gguf(tmp_path, Kind.F32)), tmp_path).path)
    need = need_of(folder, device="cpu", dtype=dtype, models_dir=tmp_path)
    assert need.weight_bytes == pytest.approx(loaded_bytes(folder, dtype, tmp_path), rel=NEAR)


@pytest.mark.parametrize("down", [Kind.Q8_0, Kind.Q5_0, Kind.F16])
def test_in_a_4_bit_file_what_is_stored_finer_takes_more(tmp_path: Path, down: Kind) -> None:
    vocabulary = byte_level("llama-bpe")
    weights = random_weights(len(vocabulary.tokens), seed=1)
    spec = str(write_gguf(tmp_path / "m.gguf", weights, vocabulary, kind=Kind.Q4_1, down_kind=down))
    need = need_of(spec, device="cpu", dtype=None, models_dir=tmp_path)
    assert need.weight_bytes == pytest.approx(loaded_bytes(spec, None, tmp_path), rel=NEAR)


def test_a_gpu_holds_half_precision(tmp_path: Path) -> None:
    spec = str(gguf(tmp_path, Kind.Q4_1))
    full = need_of(spec, device="cpu", dtype="fp32", models_dir=tmp_path).weight_bytes
    assert need_of(spec, device="cuda:0", dtype="auto", models_dir=tmp_path).weight_bytes == full // 2


def test_a_file_that_is_still_to_be_fetched_is_told_by_its_size(tmp_path: Path) -> None:
    need = need_of("smollm2-135m", device="cpu", dtype=None, models_dir=tmp_path)
    assert (need.model, need.weight_bytes) == ("smollm2-135m", 98_362_432)


def test_what_leads_nowhere_has_no_footprint(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable):
        need_of("here/is/no.gguf", device="cpu", dtype=None, models_dir=tmp_path)
