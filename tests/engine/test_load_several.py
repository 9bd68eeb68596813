"""Several models at once: all or none, told apart, and each with its part of the memory."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from llama_gossip.engine import check_specs, load_engine, load_engines, memory
from llama_gossip.engine.batching import MEMORY_SHARE
from llama_gossip.errors import ModelUnavailable, UsageError
from tests.support.gguf_files import byte_level, random_weights, write_gguf

CONTEXT = 256  # of the written files


def gguf(folder: Path, name: str, kind: Kind = Kind.F32) -> str:
    vocabulary = byte_level("llama-bpe")
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.gguf"
    return str(write_gguf(file, random_weights(len(vocabulary.tokens), seed=1), vocabulary, kind=kind))


def test_engines_come_in_the_order_of_their_specs() -> None:
    engines = load_engines(["paced:5", "scripted"], max_concurrent=3)
    try:
        assert [engine.info.model for engine in engines] == ["paced", "scripted"]
        assert {engine.info.max_concurrent for engine in engines} == {3}
    finally:
        for engine in engines:
            engine.close()


def test_two_models_of_one_name_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    one, two = gguf(tmp_path / "a", "same"), gguf(tmp_path / "b", "same")
    for call in (check_specs, load_engines):
        with pytest.raises(UsageError, match="would both be served as 'same'") as caught:
            call([one, "scripted", two])
        assert one in caught.value.message
        assert two in caught.value.message
        assert caught.value.hint


def test_weights_that_do_not_fit_together_are_refused_before_any_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [gguf(tmp_path, "one"), gguf(tmp_path, "two")]
    monkeypatch.setattr(memory, "memory_available", lambda: 600_000)  # each alone would fit
    check_specs(specs[:1], device="cpu")
    stages: list[str] = []
    with pytest.raises(ModelUnavailable, match=r"one .* and two .* together") as early:
        check_specs(specs, device="cpu")
    with pytest.raises(ModelUnavailable) as late:
        load_engines(specs, device="cpu", progress=lambda stage, done, total: stages.append(stage))
    assert early.value.message == late.value.message
    assert early.value.code == "memory"
    assert not [stage for stage in stages if stage.startswith("load")]


def test_when_one_cannot_be_loaded_the_others_are_closed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="q5"):
        load_engines(["scripted", "tiny-random"], device="cpu", dtype="q5")
    assert not [thread for thread in threading.enumerate() if thread.name == "engine scripted"]


def test_each_model_gets_its_part_and_a_small_one_leaves_the_rest_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = 12_000_000
    monkeypatch.setattr(memory, "memory_available", lambda: free_bytes)
    stages: list[str] = []
    small, large = load_engines(
        [gguf(tmp_path, "small"), "tiny-random"],
        device="cpu",
        threads=1,
        max_concurrent=4,
        progress=lambda stage, done, total: stages.append(stage),
    )
    try:
        pools = int((free_bytes - small.info.memory_bytes) * MEMORY_SHARE)  # tiny-random's weights are let be
        assert small.info.context == CONTEXT
        assert small.info.pool_bytes < pools // 4  # all that it can use
        assert pools // 2 < large.info.pool_bytes <= pools - small.info.pool_bytes
        assert large.info.context == 4096  # for one request at least
        assert "check small" in stages  # whose stage it is
    finally:
        small.close()
        large.close()


@pytest.mark.parametrize("process", [False, True])
def test_a_part_that_holds_no_whole_context_is_said(process: bool) -> None:
    tight = load_engine("tiny-random", device="cpu", threads=1, process=process, pool_bytes=500_000)
    try:
        assert tight.info.pool_bytes <= 500_000
        assert tight.info.context < 4096
        assert any("memory allows no more" in note for note in tight.info.notes)
    finally:
        tight.close()
