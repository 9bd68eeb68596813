"""The two-stage head: it scores again whatever a draw may pick."""

from __future__ import annotations

import numpy as np
import pytest

from llama_gossip.engine.forward import Draw
from llama_gossip.engine.llama_head import CANDIDATES, NOISE_FIRST, TwoStageHead, candidates, noisy_best
from llama_gossip.engine.llama_weights import BlockRows
from llama_gossip.engine.noise import gumbel
from llama_gossip.engine.packing import Int4, quantised
from llama_gossip.engine.sampling import Sampler
from llama_gossip.protocol.messages import GenerationConfig

torch = pytest.importorskip("torch")

SIZE = 6000


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 20.0])
def test_the_noisy_best_are_those_of_a_full_sort(spread: float) -> None:
    z = np.random.default_rng(5).standard_normal(SIZE) * spread
    for seed in range(10):
        sums = z + gumbel(seed, 17, np.arange(SIZE))
        first = np.argsort(-z)[:NOISE_FIRST]
        found = noisy_best(z, first, Draw(1.0, seed, 17), CANDIDATES)
        assert set(found) == set(np.argsort(-sums)[:CANDIDATES])


def test_a_small_vocabulary_is_scored_whole() -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0))
    best = torch.topk(logits, 40).indices
    assert set(candidates(logits, best, Draw(0.7, 1, 1)).tolist()) == set(range(40))


def test_logits_that_are_not_finite_are_left_to_the_sampler() -> None:
    logits = torch.zeros(SIZE)
    logits[5] = float("nan")
    best = torch.topk(logits, NOISE_FIRST).indices
    assert len(candidates(logits, best, Draw(0.7, 1, 1))) == CANDIDATES


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_a_draw_picks_what_exact_logits_would(temperature: float) -> None:
    generator = torch.Generator().manual_seed(8)
    table = quantised(torch.randn(SIZE, 64, generator=generator), 8)
    exact = BlockRows(table)
    head = TwoStageHead(Int4(quantised(table.values(), 4)), exact)
    hidden = torch.randn(12, 64, generator=generator) * 0.6
    draws = [Draw(temperature, seed, 100 + seed) for seed in range(12)]
    found = head(hidden, draws)
    wanted = (exact(torch.arange(SIZE)) * hidden[:, None]).sum(-1)
    assert (found - wanted).abs().max() > 0.01, "most are coarse"
    for row, draw in enumerate(draws):
        sampler = Sampler(GenerationConfig(temperature=temperature, seed=draw.seed), ())
        pick = sampler.pick(found[row].numpy(), draw.position).token_id
        assert pick == sampler.pick(wanted[row].numpy(), draw.position).token_id
        assert found[row, pick] == wanted[row, pick]
