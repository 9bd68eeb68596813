"""Which forward serves: the lean step where it can, transformers' modules where not, and what is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llama_gossip.engine import torch_engine
from llama_gossip.engine.llama_config import Unsuitable
from llama_gossip.engine.llama_load import load_llama, suited
from llama_gossip.engine.llama_step import LlamaForward
from llama_gossip.engine.torch_engine import TorchEngine, load_torch_engine
from llama_gossip.errors import EngineError, UsageError
from llama_gossip.protocol.messages import NumericsClass
from tests.engine.driving import job, started

QUESTION = "Once upon a time"


def loaded(**options: Any) -> TorchEngine:
    defaults: dict[str, Any] = {"device": "cpu", "dtype": None, "max_concurrent": 16, "threads": 1}
    return load_torch_engine("tiny-random", progress=None, **(defaults | options))


@pytest.fixture(scope="module")
def engine() -> Iterator[TorchEngine]:
    with started(made := loaded(dtype="q4")):
        yield made


def test_what_is_asked_for_is_served_and_said(engine: TorchEngine) -> None:
    info = engine.info
    assert (info.dtype, info.numerics_class) == ("q4", NumericsClass.EXACT)
    assert info.numerics_id.startswith("s1-q4-cpu-none-")
    assert info.numerics_id.endswith("lean-exact-pad0")
    assert "STRICT" in info.numerics_id
    assert 0 < info.memory_bytes < 2 * load_llama("tiny-random").parameters


def test_fast_steps_claim_nothing() -> None:
    made = loaded(dtype="q4", numerics="fast")
    assert made.info.numerics_class is NumericsClass.FAST
    assert "exact" not in made.info.numerics_id
    made.close()


def test_exact_that_was_asked_for_and_is_not_seen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_gossip.engine.llama_load.is_exact", lambda forward: False)
    with pytest.raises(EngineError, match="exactly"):
        loaded(dtype="q4", numerics="exact")


def test_sixteen_rows_of_all_kinds_equal_their_lone_runs() -> None:
    with started(engine := loaded(dtype="q4")) as seen:
        configs = [
            {
                "temperature": (0.0, 0.7, 1.5)[n % 3],
                "top_p": (1.0, 0.9)[n % 2],
                "seed": n,
                "max_tokens": 5 + n,
            }
            for n in range(16)
        ]
        for number, config in enumerate(configs):
            engine.submit(job(number, QUESTION * (1 + number % 5), ignore_eos=True, **config))
        together = [seen.answer(number).ids for number in range(16)]
        for number, config in enumerate(configs[:6]):
            engine.submit(job(100 + number, QUESTION * (1 + number % 5), ignore_eos=True, **config))
            assert seen.answer(100 + number).ids == together[number]


def test_auto_is_the_bits_that_are_there() -> None:
    assert suited("q4_1", 135_000_000) == "q4"
    assert suited("q4_0", 7_000_000_000) == "q4"
    assert suited("none", 135_000_000) == "fp32"
    assert suited("q8_0", 1_100_000_000) == "bf16"


def test_bits_are_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch_engine.devices.Placement("cuda:0", "cuda:0")
    monkeypatch.setattr(torch_engine.devices, "place", lambda asked: gpu)
    with pytest.raises(UsageError, match="CPU"):
        loaded(dtype="q4", device="cuda")


def test_what_the_lean_step_cannot_is_an_error_only_where_bits_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unsuitable(config: Any) -> None:
        raise Unsuitable("mlp_bias is True")

    monkeypatch.setattr("llama_gossip.engine.llama_load.llama_config", unsuitable)
    with pytest.raises(UsageError, match="mlp_bias") as caught:
        loaded(dtype="q8")
    assert "bf16" in (caught.value.hint or "")


def test_a_step_that_fails_its_check_gives_way_to_transformers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(forward: LlamaForward, source: object) -> None:
        raise EngineError("the lean step computes another model than was loaded", hint="")

    monkeypatch.setattr("llama_gossip.engine.llama_load.check_model", wrong)
    with pytest.raises(EngineError, match="another model"):
        loaded(dtype="q4")
    options = torch_engine._Options(torch_engine.devices.place("cpu"), 1, 1, "auto")
    assert torch_engine._lean("tiny-random", "fp32", options, None, needed=False) is None
    assert "transformers" in caplog.text
