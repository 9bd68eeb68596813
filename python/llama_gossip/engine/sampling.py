"""Sampler s1: from one row of logits to one token id. Normative text and test vectors: docs/sampler.md.

The law: a pure function of (logits, config, earlier ids, seed, absolute position). The vocabulary is never
sorted: candidates are cut down by value first, and noise is drawn for survivors only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llama_gossip.engine.adjustment import Adjustment
from llama_gossip.engine.noise import (
    GUMBEL_MAX,
    Float64,
    Ids,
    counter_bits,
    gumbel,
    gumbel_of,
    least_bits,
)
from llama_gossip.protocol.messages import GenerationConfig, TokenLogprob

Float32: TypeAlias = NDArray[np.float32]

ARGMAX_BELOW: Final = 1e-5  # a lower temperature is greedy: logits / T would leave float64's useful range
SORT_LIMIT: Final = 2048  # the most candidates that are sorted at once, 0.15 ms
NOISE_FIRST: Final = 1024  # the best by logit whose noise is drawn first when nothing was filtered out
NOISE_MARGIN: Final = 1e-6  # safety of the bound on noise against rounding of the noise, far above 1 ulp


class NotFinite(ArithmeticError):
    """The model gave NaN or an infinity."""


@dataclass(frozen=True, slots=True)
class Pick:
    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """One request's sampler: it starts from the ids that are there and must be told every id that follows."""

    def __init__(
        self, config: GenerationConfig, prompt_ids: Iterable[int], answer_ids: Iterable[int] = ()
    ) -> None:
        self.config = config
        self.greedy = config.temperature < ARGMAX_BELOW
        self.adjustment = Adjustment(config, prompt_ids, answer_ids)

    def seen(self, token_id: int) -> None:
        self.adjustment.seen(token_id)

    def pick(self, logits: Float32, position: int) -> Pick:
        """The token at this absolute position. Raises NotFinite."""
        if not (math.isfinite(float(logits.max())) and math.isfinite(float(logits.min()))):
            raise NotFinite("the model's logits are not finite")
        config = self.config
        adjusted = self._adjust(logits)
        if self.greedy:
            token_id = int(adjusted.argmax())  # the first maximum: the lowest id wins
        else:
            token_id = pick_noisy(adjusted.astype(np.float64) / config.temperature, config, position)
        if config.logprobs is None:
            return Pick(token_id)
        return with_logprobs(logits, token_id, config.logprobs)

    def _adjust(self, logits: Float32) -> Float32 | Float64:
        if not len(self.adjustment):
            return logits
        x = logits.astype(np.float64)
        ids = self.adjustment.ids
        x[ids] = self.adjustment.changed(ids, x[ids])
        return x


def pick_noisy(z: Float64, config: GenerationConfig, position: int) -> int:
    """Filters, then argmax(z + noise) over what is left; equal sums go to the lowest id."""
    if config.top_k is None and config.top_p >= 1.0 and config.min_p <= 0.0:
        return _pick_unfiltered(z, config.seed, position)
    ids = survivors(z, top_k=config.top_k, top_p=config.top_p, min_p=config.min_p)
    return _argmax_lowest(z[ids] + gumbel(config.seed, position, ids), ids)


def survivors(z: Float64, *, top_k: int | None, top_p: float, min_p: float) -> Ids:
    """Token ids that pass top_k, then top_p, then min_p, in no particular order; never empty."""
    ids: Ids = np.arange(z.size)
    if top_k is not None and top_k < z.size:
        ids = best(z, max(1, top_k))
    if top_p < 1.0:
        ids = _nucleus(z, ids, top_p)
    if min_p > 0.0:
        values = z[ids]
        ids = ids[np.exp(values - values.max()) >= min_p]
    return ids


def best(z: Float64 | Float32, count: int) -> Ids:
    """The `count` highest values, equal ones by lowest id, highest first."""
    if count >= z.size:
        return np.argsort(-z, kind="stable")
    threshold = np.partition(z, z.size - count)[z.size - count]
    above = np.flatnonzero(z > threshold)
    equal = np.flatnonzero(z == threshold)[: count - above.size]
    ids = np.concatenate((above, equal))
    return ids[np.lexsort((ids, -z[ids]))]


def _nucleus(z: Float64, ids: Ids, top_p: float) -> Ids:
    """The shortest prefix of ids sorted by (value down, id up) whose mass reaches top_p, without a full sort.

    The value range is halved until few candidates are left at the border: what lies above a border that is
    still too light is kept whole, what lies below one that is heavy enough is dropped whole.
    """
    values = z[ids]
    masses = np.exp(values - values.max())
    wanted = top_p * float(masses.sum())
    kept: list[Ids] = []
    while ids.size > SORT_LIMIT:
        low, high = float(values.min()), float(values.max())
        upper = values > low + (high - low) / 2.0
        if low == high or not upper.any():
            break
        mass = float(masses[upper].sum())
        chosen = upper
        if mass < wanted:
            kept.append(ids[upper])
            wanted -= mass
            chosen = ~upper
        ids, values, masses = ids[chosen], values[chosen], masses[chosen]
    order = np.lexsort((ids, -values))
    cumulated = np.cumsum(masses[order])
    length = int(np.searchsorted(cumulated, wanted)) + 1
    return np.concatenate((*kept, ids[order[:length]]))


def _pick_unfiltered(z: Float64, seed: int, position: int) -> int:
    """argmax(z + noise) over the whole vocabulary, with the logarithms of few tokens only.

    After the best by value have drawn, another token wins only with noise above (best sum - its value); that
    is a bound on its 52 bits, which costs one integer comparison.
    """
    if z.size <= NOISE_FIRST:
        ids: Ids = np.arange(z.size)
        return _argmax_lowest(z + gumbel(seed, position, ids), ids)
    first = np.argpartition(z, z.size - NOISE_FIRST)[z.size - NOISE_FIRST :]
    sums = z[first] + gumbel(seed, position, first)
    rest_mask = np.ones(z.size, dtype=bool)
    rest_mask[first] = False
    best_sum, floor = float(sums.max()), float(z[rest_mask].max())
    needed = best_sum - floor - NOISE_MARGIN - rounding_of(best_sum, floor)
    if needed < GUMBEL_MAX:
        rest = np.flatnonzero(rest_mask)
        bits = counter_bits(seed, position, rest)
        able = bits >= np.uint64(least_bits(needed))
        first = np.concatenate((first, rest[able]))
        sums = np.concatenate((sums, z[rest[able]] + gumbel_of(bits[able])))
    return _argmax_lowest(sums, first)


def rounding_of(*sums: float) -> float:
    """What sums of value and noise of this size may be off by; beside ordinary logits nothing."""
    return 4.0 * float(np.spacing(max(map(abs, sums))))


def _argmax_lowest(sums: Float64, ids: Ids) -> int:
    return int(ids[sums == sums.max()].min())


def with_logprobs(logits: Float32, token_id: int, count: int) -> Pick:
    """Natural log probabilities of the model itself, before penalties, bias and temperature."""
    x = logits.astype(np.float64)
    top_value = float(x.max())
    norm = top_value + math.log(float(np.exp(x - top_value).sum()))
    top = tuple((int(i), float(x[i]) - norm) for i in (best(logits, count) if count else ()))
    return Pick(token_id, float(x[token_id]) - norm, top)


def to_wire(pick: Pick, text_of: Callable[[int], str]) -> TokenLogprob | None:
    """The form that travels: alternatives as texts."""
    if pick.logprob is None:
        return None
    return TokenLogprob(pick.logprob, tuple((text_of(token_id), value) for token_id, value in pick.top))
