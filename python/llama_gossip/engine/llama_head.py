"""The head of the lean Llama step: from the last hidden state to logits.

A quantised head alone gives wrong answers and a full one reads the largest table of the model for each token.
So it has two stages: the whole vocabulary is scored with 4-bit weights, and the tokens that can win, the
CANDIDATES best and the CANDIDATES best after this draw's noise, are scored again in fp32 from the file's own
values. The law: what is returned depends on the row and its draw alone. A draw without filters picks what
exact logits would have picked (10 260 of 10 260 draws at temperatures to 1.5, benches/head.py). Elsewhere
logits are coarse, off by 0.5 as a rule, and so are the mass that top_p and min_p see, the border of a top_k
beyond CANDIDATES, what a bias or penalty lifts from far below, and the normaliser of logprobs; a token's own
logit in a logprob is exact among the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from .forward import Draw
from .llama_weights import Matrix, Rows
from .noise import GUMBEL_MAX, Float64, Ids, counter_bits, gumbel
from .sampling import ARGMAX_BELOW, NOISE_MARGIN

if TYPE_CHECKING:
    import torch

CANDIDATES: Final = 64  # scored again
NOISE_FIRST: Final = 512  # the best by value whose noise is drawn first


class PlainHead:
    """One exact stage."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix

    def __call__(self, hidden: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
        """fp32 [rows, width], of which the first belong to the draws, to fp32 [draws, vocabulary]."""
        return self._matrix(hidden.to(self._matrix.weight.dtype))[: len(draws)].float()  # type: ignore[attr-defined]


class TwoStageHead:
    def __init__(self, coarse: Matrix, exact: Rows) -> None:
        self._coarse, self._exact = coarse, exact

    def __call__(self, hidden: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
        import torch

        logits = self._coarse(hidden.to(torch.bfloat16)).float()[: len(draws)]
        best = torch.topk(logits, min(NOISE_FIRST, logits.shape[1])).indices
        for row, draw in enumerate(draws):
            ids = candidates(logits[row], best[row], draw)
            scores = (self._exact(ids) * hidden[row]).sum(dim=-1)  # each id alone: no batch, no order
            logits[row, ids] = scores
        return logits


def candidates(logits: torch.Tensor, best: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Ids to score again, given coarse logits and the ids of the highest of them, highest first."""
    import torch

    plain = best[:CANDIDATES]
    if draw.temperature < ARGMAX_BELOW or not bool(torch.isfinite(logits).all()):
        return plain
    z = logits.numpy().astype(np.float64) / draw.temperature
    noisy = noisy_best(z, best.numpy(), draw, CANDIDATES)
    return torch.from_numpy(np.union1d(plain.numpy(), noisy))


def noisy_best(z: Float64, first: Ids, draw: Draw, count: int) -> Ids:
    """The `count` highest of z + noise, given the ids of the highest z, highest first.

    After those have drawn, another token needs noise above (count-th best sum - its value): a bound on its 52
    random bits, so that few logarithms are taken.
    """
    sums = z[first] + gumbel(draw.seed, draw.position, first)
    if len(first) < len(z):
        least = np.partition(sums, len(sums) - count)[len(sums) - count] if len(sums) > count else -math.inf
        needed = float(least) - float(z[first[-1]]) - NOISE_MARGIN
        rest = _lucky(z.size, first, draw, needed)
        first = np.concatenate((first, rest))
        sums = np.concatenate((sums, z[rest] + gumbel(draw.seed, draw.position, rest)))
    if len(first) <= count:
        return first
    return first[np.argpartition(sums, len(sums) - count)[len(sums) - count :]]


def _lucky(size: int, known: Ids, draw: Draw, needed: float) -> Ids:
    """Ids beside the known ones whose noise may reach `needed`."""
    if needed >= GUMBEL_MAX:
        return known[:0]
    bits = counter_bits(draw.seed, draw.position, np.arange(size))
    floor = math.exp(-math.exp(-max(needed, -3.0))) * (1.0 - 1e-12) * 2.0**52 - 2
    lucky = bits >= np.uint64(max(0, math.floor(floor)))
    lucky[known] = False
    return np.flatnonzero(lucky)
