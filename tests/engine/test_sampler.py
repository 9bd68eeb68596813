"""Sampler s1: numpy's picks and noise are those of the plain reference, bit for bit."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.engine.noise import counter_bits, gumbel, pinned_log
from llama_gossip.engine.sampling import NotFinite, Sampler, pick_noisy, survivors
from llama_gossip.protocol.messages import GenerationConfig
from tests.engine import sampler_reference as reference
from tests.engine.make_sampler_vectors import PATH, logits_of, written

VECTORS = json.loads(PATH.read_text(encoding="utf-8"))
U64 = st.integers(0, 2**64 - 1)


def test_the_checked_in_vectors_are_what_the_reference_writes() -> None:
    assert PATH.read_text(encoding="utf-8") == written()


def test_noise_equals_the_vectors_bit_for_bit() -> None:
    assert len(VECTORS["noise"]) == 150
    for case in VECTORS["noise"]:
        ids = np.array([case["token_id"]])
        seed, position = int(case["seed"]), case["position"]
        assert int(counter_bits(seed, position, ids)[0]) == int(case["bits"])
        assert float(gumbel(seed, position, ids)[0]).hex() == case["noise"]


@pytest.mark.parametrize("case", VECTORS["pick"], ids=lambda case: f"{case['logits']}-{case['size']}")
def test_picks_equal_the_vectors(case: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        key: tuple(map(tuple, v)) if key == "logit_bias" else v for key, v in case["config"].items()
    }
    config = GenerationConfig(seed=int(case["seed"]), **options)
    sampler = Sampler(config, case["prompt"], case["answer"])
    logits = np.array(logits_of(case["logits"], case["size"]), dtype=np.float32)
    for position, token_id in case["picks"].items():
        assert sampler.pick(logits, int(position)).token_id == token_id


@given(seed=U64, position=st.integers(0, 2**40), ids=st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_noise_is_a_pure_function_of_seed_position_and_id(seed: int, position: int, ids: list[int]) -> None:
    values = gumbel(seed, position, np.array(ids))
    assert values.tolist() == [reference.noise(seed, position, token_id) for token_id in ids]


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(0, 2**32),
    size=st.sampled_from([1, 2, 7, 259, 1024, 1025, 3000]),
    spread=st.sampled_from([0.0, 0.1, 1.0, 4.0]),
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 5.0]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([None, 1, 2, 40, 5000]),
    min_p=st.sampled_from([0.0, 0.02, 1.0]),
    seed=U64,
)
def test_picks_equal_the_plain_reference(number: int, size: int, spread: float, **options: float) -> None:
    logits = np.array(logits_of(number, size), dtype=np.float32) * np.float32(spread)  # spread 0: all tied
    config = GenerationConfig(**options)  # type: ignore[arg-type]
    expected = reference.pick(logits.astype(float).tolist(), config, 77)
    assert Sampler(config, ()).pick(logits, 77).token_id == expected


@settings(max_examples=10, deadline=None)
@given(number=st.integers(0, 2**32), seed=U64, spread=st.sampled_from([0.05, 1.0, 3.0]))
def test_a_pick_over_the_whole_vocabulary_misses_no_lucky_token(
    number: int, seed: int, spread: float
) -> None:
    z = np.array(logits_of(number, 9000)) * spread
    config = GenerationConfig(temperature=1.0, top_p=1.0, seed=seed)
    assert pick_noisy(z, config, 5) == int(np.argmax(z + gumbel(seed, 5, np.arange(9000))))


@settings(max_examples=30, deadline=None)
@given(
    number=st.integers(0, 2**32),
    spread=st.sampled_from([0.01, 0.3, 1.0, 6.0]),
    top_p=st.sampled_from([0.01, 0.3, 0.7, 0.97]),
)
def test_a_nucleus_found_without_a_sort_is_that_of_the_sort(number: int, spread: float, top_p: float) -> None:
    z = np.array(logits_of(number, 12_000)) * spread + np.arange(12_000) * 1e-7  # no ties
    order = np.argsort(-z)
    masses = np.exp(z[order] - z[order[0]])
    count = int(np.searchsorted(np.cumsum(masses), top_p * masses.sum())) + 1
    found = survivors(z, top_k=None, top_p=top_p, min_p=0.0)
    assert set(found.tolist()) == set(order[:count].tolist())


def test_a_flat_vocabulary_is_cut_at_its_mass_by_lowest_ids() -> None:
    ids = survivors(np.zeros(10_000), top_k=None, top_p=0.25, min_p=0.0)
    assert sorted(ids.tolist()) == list(range(2500))


def test_picks_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    config = GenerationConfig(temperature=1.0, top_p=1.0, seed=9)
    sampler = Sampler(config, ())
    counts = np.bincount([sampler.pick(logits, position).token_id for position in range(20_000)], minlength=4)
    chi2 = float((((counts / 20_000 - [0.5, 0.3, 0.15, 0.05]) ** 2) / [0.5, 0.3, 0.15, 0.05]).sum() * 20_000)
    assert chi2 < 16.3  # p = 0.001 at three degrees of freedom; a fixed seed, so no chance in the test


def test_the_lowest_id_wins_a_tie_at_temperature_zero() -> None:
    logits = np.array([0.0, 3.0, 3.0, 1.0], dtype=np.float32)
    assert Sampler(GenerationConfig(temperature=0.0), ()).pick(logits, 0).token_id == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    logits = np.zeros(300, dtype=np.float32)
    logits[17] = bad
    with pytest.raises(NotFinite):
        Sampler(GenerationConfig(temperature=temperature), ()).pick(logits, 0)


def test_logprobs_are_the_models_own_before_temperature_and_bias() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32))
    config = GenerationConfig(temperature=0.0, logprobs=3, logit_bias=((3, 50.0),))
    pick = Sampler(config, ()).pick(logits, 0)
    assert pick.token_id == 3
    assert pick.logprob == pytest.approx(math.log(0.125), abs=1e-6)
    assert [token_id for token_id, _ in pick.top] == [0, 1, 2]
    assert pick.top[0][1] == pytest.approx(math.log(0.5), abs=1e-6)


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_the_pinned_logarithm_is_a_logarithm(x: float) -> None:
    assert float(pinned_log(np.array([x]))[0]) == pytest.approx(math.log(x), rel=1e-14, abs=1e-15)
