"""Batch sampling gives, row by row, what the sampler gives alone, on either kind of rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.engine import batch_sampling
from llama_gossip.engine.batch_sampling import pick_from, pick_rows
from llama_gossip.engine.logit_rows import (
    SHORTLIST,
    TOTAL_ERROR,
    DeviceRows,
    HostRows,
    LogitRows,
    rows_of,
)
from llama_gossip.engine.noise import counter_bits, gumbel, gumbel_of_one
from llama_gossip.engine.sampling import Float32, NotFinite, Pick, Sampler
from llama_gossip.protocol.messages import GenerationConfig
from tests.engine.make_sampler_vectors import PATH, logits_of

VECTORS = json.loads(PATH.read_text(encoding="utf-8"))
U64 = st.integers(0, 2**64 - 1)
KINDS: dict[str, Callable[[Float32], LogitRows]] = {
    "host": HostRows,
    "device": lambda logits: DeviceRows(torch.from_numpy(logits)),
}

CONFIGS = st.builds(
    GenerationConfig,
    temperature=st.sampled_from([0.0, 2e-5, 0.3, 0.7, 1.0, 5.0, 1e3]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0, 1.0]),
    top_k=st.sampled_from([None, None, 1, 2, 40, SHORTLIST, 5000]),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]),
    repetition=st.sampled_from([1.0, 1.0, 1.3, 0.7]),
    presence=st.sampled_from([0.0, 0.0, 1.5]),
    frequency=st.sampled_from([0.0, 0.0, 0.5, -0.5]),
    logit_bias=st.sampled_from([(), (), ((0, 4.0), (2, -100.0), (0, 6.0)), ((5, 100.0),)]),
    logprobs=st.sampled_from([None, None, None, 0, 3]),
    seed=U64,
)


@st.composite
def rows(draw: st.DrawFn, size: int) -> Float32:
    """Logits with a head, a tail and, often, ties; now and then one that is not finite."""
    stream = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 0.02, 1.0, 3.0, 30.0, 1e9]))
    x = stream.standard_normal(size) * spread
    step = draw(st.sampled_from([0.0, 0.0, 0.25, 4.0]))
    if step:
        x = np.round(x / step) * step
    bad = draw(st.sampled_from([None] * 9 + [math.nan, math.inf, -math.inf]))
    if bad is not None:
        x[draw(st.integers(0, size - 1))] = bad
    return x.astype(np.float32)


def like_a_model(count: int, size: int, seed: int = 1) -> Float32:
    """A few likely tokens before a long tail, as trained models give."""
    stream = np.random.default_rng(seed)
    return (stream.standard_normal((count, size)) * 2.5 + stream.exponential(1.2, (count, size))).astype(
        np.float32
    )


def alone(logits: Float32, samplers: Sequence[Sampler], positions: Sequence[int]) -> list[Pick | None]:
    """What Sampler.pick says of each row; None: not finite."""
    found: list[Pick | None] = []
    for row, sampler, position in zip(logits, samplers, positions, strict=True):
        try:
            found.append(sampler.pick(row, position))
        except NotFinite:
            found.append(None)
    return found


def together(logits: LogitRows, samplers: Sequence[Sampler], positions: Sequence[int]) -> list[Pick | None]:
    return [None if isinstance(pick, NotFinite) else pick for pick in pick_from(logits, samplers, positions)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(data=st.data(), size=st.sampled_from([6, 259, SHORTLIST, SHORTLIST + 1, 5000, 12_289]))
def test_every_row_gets_what_it_gets_alone(kind: str, data: st.DataObject, size: int) -> None:
    count = data.draw(st.integers(1, 5))
    logits = np.stack([data.draw(rows(size)) for _ in range(count)])
    ids = st.lists(st.integers(0, size - 1), max_size=12) | st.just(list(range(0, size, 1 + size // 200)))
    samplers = [Sampler(data.draw(CONFIGS), data.draw(ids), data.draw(ids)) for _ in range(count)]
    positions = [data.draw(st.integers(0, 2**33)) for _ in range(count)]
    assert together(KINDS[kind](logits), samplers, positions) == alone(logits, samplers, positions)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0.02, 0.5])
@pytest.mark.parametrize(
    "options", [{"top_p": 0.5}, {"top_p": 0.97}, {"top_p": 1.0}, {"min_p": 0.97}, {"top_k": 5000}], ids=str
)
def test_a_flat_row_is_won_from_far_outside_the_shortlist(
    kind: str, spread: float, options: dict[str, Any]
) -> None:
    logits = (np.random.default_rng(3).standard_normal((24, 9000)) * spread).astype(np.float32)
    samplers = [
        Sampler(GenerationConfig(temperature=1.0, seed=n, **{"top_p": 1.0, **options}), ()) for n in range(24)
    ]
    assert together(KINDS[kind](logits), samplers, [9] * 24) == alone(logits, samplers, [9] * 24)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"top_k": SHORTLIST}, {"top_k": 700}, {"top_p": 0.8}], ids=str)
def test_equal_values_at_the_shortlists_end_are_ranked_by_id(kind: str, options: dict[str, Any]) -> None:
    logits = np.random.default_rng(4).integers(0, 8, (24, 6000)).astype(np.float32) / 16
    logits[:, ::10] += 0.5
    samplers = [
        Sampler(GenerationConfig(temperature=1.0, seed=n, **{"top_p": 1.0, **options}), ()) for n in range(24)
    ]
    assert together(KINDS[kind](logits), samplers, [9] * 24) == alone(logits, samplers, [9] * 24)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [TOTAL_ERROR, 0.3])
def test_likely_tokens_that_change_move_the_mass_that_top_p_is_a_share_of(
    kind: str, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_sampling, "TOTAL_ERROR", error)  # wide bounds leave more to the whole row
    logits = like_a_model(48, 6000)
    samplers = [
        Sampler(
            GenerationConfig(temperature=0.9, top_p=0.6, seed=n, repetition=1.5 if n % 2 else 0.8),
            np.argsort(-row)[:60].tolist(),
        )
        for n, row in enumerate(logits)
    ]
    assert together(KINDS[kind](logits), samplers, [9] * 48) == alone(logits, samplers, [9] * 48)


@pytest.mark.parametrize("kind", KINDS)
def test_the_lowest_id_wins_a_tie_with_a_changed_token(kind: str) -> None:
    logits = np.zeros((3, 3000), np.float32)
    logits[:, [5, 2900]] = 4.0
    changes: tuple[tuple[tuple[int, float], ...], ...] = (((5, 0.0),), ((2900, 0.0),), ((1, 4.0),))
    samplers = [Sampler(GenerationConfig(temperature=0.0, logit_bias=bias), ()) for bias in changes]
    assert together(KINDS[kind](logits), samplers, [0] * 3) == [Pick(5), Pick(5), Pick(1)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_lowest_id_wins_where_values_swallow_the_noise(kind: str) -> None:
    logits = np.zeros((8, 3000), np.float32)
    logits[:, [7, 2900, 2990]] = 3e38
    samplers = [Sampler(GenerationConfig(temperature=2e-5, top_p=1.0, seed=n), ()) for n in range(8)]
    assert together(KINDS[kind](logits), samplers, [0] * 8) == [Pick(7)] * 8


@pytest.mark.parametrize("kind", KINDS)
def test_picks_equal_the_vectors(kind: str) -> None:
    for case in VECTORS["pick"]:
        options: dict[str, Any] = {
            key: tuple(map(tuple, v)) if key == "logit_bias" else v for key, v in case["config"].items()
        }
        config = GenerationConfig(seed=int(case["seed"]), **options)
        positions = [int(position) for position in case["picks"]]
        row = np.array(logits_of(case["logits"], case["size"]), dtype=np.float32)
        logits = np.tile(row, (len(positions), 1))
        samplers = [Sampler(config, case["prompt"], case["answer"]) for _ in positions]
        found = together(KINDS[kind](logits), samplers, positions)
        assert [pick.token_id for pick in found if pick is not None] == list(case["picks"].values())


def test_a_bad_row_hurts_no_other() -> None:
    logits = torch.zeros(4, 3000)
    logits[:, 7] = 9.0
    logits[1, 2999] = math.nan
    logits[2, 0] = -math.inf
    samplers = [Sampler(GenerationConfig(temperature=t), ()) for t in (0.0, 0.0, 0.7, 0.01)]
    picks = pick_rows(logits, samplers, [3, 4, 5, 6])
    assert [type(pick) for pick in picks] == [Pick, NotFinite, NotFinite, Pick]
    assert [pick.token_id for pick in picks if isinstance(pick, Pick)] == [7, 7]


def test_no_rows_give_no_picks() -> None:
    assert pick_rows(torch.zeros(0, 10), [], []) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 1.0, "top_p": 0.95, "top_k": 50},
        {"temperature": 0.8, "top_p": 0.9, "repetition": 1.1, "frequency": 0.2},
        {"temperature": 0.0, "presence": 1.0},
    ],
    ids=str,
)
def test_the_whole_row_is_seldom_needed(
    kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = like_a_model(64, 20_000)
    samplers = [Sampler(GenerationConfig(seed=n, **options), range(40), range(30, 60)) for n in range(64)]
    positions = list(range(100, 164))
    expected = alone(logits, samplers, positions)
    whole = []
    real = Sampler.pick
    monkeypatch.setattr(Sampler, "pick", lambda *args: whole.append(1) or real(*args))
    assert together(KINDS[kind](logits), samplers, positions) == expected
    assert len(whole) <= 3


@pytest.mark.parametrize("kind", KINDS)
@given(seed=U64, position=st.integers(0, 2**40), noise=st.floats(-3.0, 12.0))
@settings(max_examples=25, deadline=None)
def test_lucky_tokens_are_those_whose_noise_may_reach_a_value(
    kind: str, seed: int, position: int, noise: float
) -> None:
    ids = np.arange(9000)
    row = np.arange(9000, dtype=np.float32)[None] / 7
    names, logits = KINDS[kind](row).lucky(0, seed, position, noise)
    assert (logits == row[0, names]).all()
    found = names.tolist()
    values = gumbel(seed, position, ids)
    assert found == sorted(set(found))
    assert set(np.flatnonzero(values >= noise).tolist()) <= set(found)
    assert (values[found] > noise - 1e-4).all()


@given(seed=U64, position=st.integers(0, 2**40), token_id=st.integers(0, 2**32 - 1))
def test_noise_of_one_token_is_that_of_many(seed: int, position: int, token_id: int) -> None:
    ids = np.array([token_id])
    assert gumbel_of_one(int(counter_bits(seed, position, ids)[0])) == gumbel(seed, position, ids)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 8.0])
def test_totals_keep_their_error(kind: str, temperature: float) -> None:
    logits = np.concatenate((like_a_model(3, 50_000), np.zeros((1, 50_000), np.float32)))
    highest = logits.max(axis=1)
    totals = KINDS[kind](logits).survey({3: temperature, 1: None, 0: temperature, 2: temperature}).totals
    assert list(totals) == [3, 0, 2]
    found = np.array(list(totals.values()))
    exact = np.exp((logits.astype(np.float64) - highest[:, None]) / temperature).sum(axis=1)[[3, 0, 2]]
    assert abs(found / exact - 1).max() < TOTAL_ERROR / 2


def test_rows_in_the_cpus_memory_are_read_where_they_lie() -> None:
    logits = torch.zeros(2, 30)
    rows_here = rows_of(logits)
    logits[1, 4] = 8.0
    assert rows_here.survey({}).extremes.first_highest.tolist() == [0, 4]
    assert batch_sampling.pick_rows(logits, [Sampler(GenerationConfig(temperature=0.0), ())] * 2, [0, 0]) == [
        Pick(0),
        Pick(4),
    ]
