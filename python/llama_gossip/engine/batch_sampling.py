"""Batch sampling: sampler s1 for all rows of a step, with few passes over the vocabulary.

The law: row by row what Sampler.pick gives, to the bit. A shortlist decides only where it provably holds the
winner: each step that leans on a rounded sum or on what lies outside the list says so, and where that could
matter the whole row is picked from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from llama_gossip.engine.logit_rows import TOTAL_ERROR, LogitRows, Shortlist, Survey, rows_of
from llama_gossip.engine.noise import (
    GUMBEL_MAX,
    NEAR,
    Float64,
    Ids,
    UInt64,
    counter_bits,
    gumbel,
    gumbel_of,
    gumbel_of_one,
    near_gumbel_of,
)
from llama_gossip.engine.sampling import (
    NOISE_MARGIN,
    NotFinite,
    Pick,
    Sampler,
    rounding_of,
    with_logprobs,
)
from llama_gossip.protocol.messages import GenerationConfig

if TYPE_CHECKING:
    import torch

ROUNDING: Final = 1e-9  # relative, of float64 sums of masses in any order: far above n * 2**-53


def pick_rows(
    logits: torch.Tensor, samplers: Sequence[Sampler], positions: Sequence[int]
) -> list[Pick | NotFinite]:
    """The token of each row, or what is wrong with that row.

    logits: fp32, shape [rows, vocabulary], on any device. positions: absolute, see Sampler.pick.
    """
    return pick_from(rows_of(logits), samplers, positions) if len(samplers) else []


def pick_from(
    rows: LogitRows, samplers: Sequence[Sampler], positions: Sequence[int]
) -> list[Pick | NotFinite]:
    survey = rows.survey(
        {n: _summed_at(sampler.config) for n, sampler in enumerate(samplers) if not sampler.greedy}
    )
    extremes, finite = survey.extremes, survey.extremes.finite
    chosen = dict(_contested(rows, survey, samplers, positions))
    for n, sampler in enumerate(samplers):
        if finite[n] and sampler.greedy and len(sampler.adjustment):
            chosen[n] = _highest_changed(rows, n, sampler)
    picks: list[Pick | NotFinite] = []
    for n, sampler in enumerate(samplers):
        if not finite[n]:
            picks.append(NotFinite("the model's logits are not finite"))
            continue
        token_id = chosen.get(n, int(extremes.first_highest[n]))
        count = sampler.config.logprobs
        picks.append(Pick(token_id) if count is None else with_logprobs(rows.whole(n), token_id, count))
    return picks


def _highest_changed(rows: LogitRows, row: int, sampler: Sampler) -> int:
    """The token of a greedy row of which some logits change."""
    ids = sampler.adjustment.ids
    logits, highest, token_id = rows.apart(row, ids)
    changed = sampler.adjustment.changed(ids, logits)
    best = float(changed.max())
    if np.isnan(best):
        return sampler.pick(rows.whole(row), 0).token_id
    if best < highest:
        return token_id
    first = int(ids[changed == best].min())
    return min(first, token_id) if best == highest else first


def _contested(
    rows: LogitRows, survey: Survey, samplers: Sequence[Sampler], positions: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """(row, token id) of the finite rows in which the highest logit need not win."""
    highest, finite = survey.extremes.highest, survey.extremes.finite
    for n, shortlist in survey.shortlists.items():
        if not finite[n]:
            continue
        contest = Contest(rows, n, samplers[n], positions[n], shortlist)
        token_id = contest.winner(float(highest[n]), survey.totals.get(n))
        if token_id is None:
            token_id = samplers[n].pick(rows.whole(n), positions[n]).token_id
        yield n, token_id


def _summed_at(config: GenerationConfig) -> float | None:
    """The temperature at which the row's masses must be summed; None: no filter asks for it."""
    return config.temperature if config.top_p < 1.0 and config.top_k is None else None


@dataclass(frozen=True, slots=True)
class Bounds:
    low: float
    high: float


class Contest:
    """One row whose winner is looked for among the tokens above a floor.

    Those are exactly the first of the order (z down, id up), so ranks and masses before a token are exact.
    """

    def __init__(
        self, rows: LogitRows, row: int, sampler: Sampler, position: int, shortlist: Shortlist
    ) -> None:
        self._rows, self._row, self._sampler, self._position = rows, row, sampler, position
        self._config = sampler.config
        self._scale = self._config.temperature
        self._floor = shortlist.floor / self._scale
        self._before: Float64 = np.zeros(0)  # logits that step 2 changes, and what they become
        self._after: Float64 = np.zeros(0)
        ids, logits = shortlist.ids, shortlist.logits
        if len(sampler.adjustment):
            kept = ~sampler.adjustment.touches(ids)
            changed_ids = sampler.adjustment.ids
            self._before = rows.logits(row, changed_ids)
            self._after = sampler.adjustment.changed(changed_ids, self._before)
            ids = np.concatenate((ids[kept], changed_ids))
            logits = np.concatenate((logits[kept], self._after))
        z = logits / self._scale
        inside = z > self._floor if self._floor > -np.inf else np.ones(z.size, dtype=bool)
        self._ids, self._z = ids[inside], z[inside]

    def winner(self, highest: float, total: float | None) -> int | None:
        """The token, or None where only the whole row can tell. `highest` of the row's own logits; `total`
        of its masses, where the filters need it."""
        if not self._ids.size or not np.isfinite(self._after).all() or not np.isfinite(self._z).all():
            return None
        top_k = self._config.top_k
        if top_k is not None and max(1, top_k) > self._z.size and self._outside:
            return None
        kept = Kept(self._ids, self._z, self._config)
        if self._config.top_p < 1.0:
            kept.weigh(self._all_masses(kept, highest, total))
        return self._drawn(kept)

    @property
    def _outside(self) -> bool:
        """Whether any token is."""
        return self._floor > -np.inf

    def _all_masses(self, kept: Kept, highest: float, total: float | None) -> Bounds:
        """What top_p is a share of."""
        if self._config.top_k is not None or not self._outside:
            return kept.first_masses(self._config.top_k)
        assert total is not None
        if not self._before.size:
            return Bounds(total * (1 - TOTAL_ERROR), total * (1 + TOTAL_ERROR))
        with np.errstate(over="ignore"):  # an infinite bound decides nothing
            own = total * np.exp(highest / self._scale - kept.highest)
            before = np.exp(self._before / self._scale - kept.highest).sum()
        after = np.exp(self._after / self._scale - kept.highest).sum()
        error = TOTAL_ERROR * own + ROUNDING * (before + after)
        middle = own - before + after
        return Bounds(float(middle - error), float(middle + error))

    def _drawn(self, kept: Kept) -> int | None:
        """The highest sum of value and noise among what the filters keep."""
        bits = counter_bits(self._config.seed, self._position, self._ids)
        sums = self._z + near_gumbel_of(bits)
        while True:
            highest = float(sums.max())
            near = np.flatnonzero(sums >= highest - 2 * NEAR - rounding_of(highest))
            best_sum, place = self._best_of(near, bits)
            verdict = kept.keeps(place)
            if verdict is None:
                return None
            if verdict:
                return self._unbeaten(kept, place, best_sum)
            sums[~kept.before(place)] = -np.inf  # what comes later in the order is out with it

    def _best_of(self, places: Ids, bits: UInt64) -> tuple[float, int]:
        """The highest exact sum and its place; of equal ones the lowest id's."""
        if places.size == 1:  # nearly always
            place = int(places[0])
            return float(self._z[place]) + gumbel_of_one(int(bits[place])), place
        sums = self._z[places] + gumbel_of(bits[places])
        best = places[sums == sums.max()]
        return float(sums.max()), int(best[self._ids[best].argmin()])

    def _unbeaten(self, kept: Kept, place: int, best_sum: float) -> int | None:
        """The token at this place, unless one outside may have a higher sum."""
        token_id = int(self._ids[place])
        if not self._outside or kept.ends_inside(self._floor):
            return token_id
        needed = best_sum - self._floor - NOISE_MARGIN - rounding_of(best_sum, self._floor)
        if needed >= GUMBEL_MAX:
            return token_id
        ids, logits = self._rows.lucky(self._row, self._config.seed, self._position, needed)
        z = self._sampler.adjustment.changed(ids, logits) / self._scale
        outside = z <= self._floor
        ids, z = ids[outside], z[outside]
        sums = z + gumbel(self._config.seed, self._position, ids)
        rivals = sums >= best_sum
        if not rivals.any():
            return token_id
        if kept.filtered:
            return None
        highest = sums.max()
        first = int(ids[sums == highest].min())
        return min(first, token_id) if highest == best_sum else first


class Kept:
    """Which of a row's first tokens the filters keep: each filter keeps the first few of the order."""

    def __init__(self, ids: Ids, z: Float64, config: GenerationConfig) -> None:
        self._ids, self._z = ids, z
        self.highest = float(z.max())
        self._top_k = None if config.top_k is None else max(1, config.top_k)
        self._top_p, self._min_p = config.top_p, config.min_p
        self.filtered = config.top_k is not None or config.top_p < 1.0 or config.min_p > 0.0
        self._masses: Float64 = np.exp(z - self.highest) if config.top_p < 1.0 else np.zeros(0)
        self._wanted = Bounds(np.inf, np.inf)

    def first_masses(self, top_k: int | None) -> Bounds:
        masses = self._masses
        if top_k is not None and max(1, top_k) < masses.size:
            masses = np.partition(masses, masses.size - max(1, top_k))[masses.size - max(1, top_k) :]
        total = float(masses.sum())
        return Bounds(total * (1 - ROUNDING), total * (1 + ROUNDING))

    def weigh(self, total: Bounds) -> None:
        """top_p is this share of what is there."""
        self._wanted = Bounds(
            self._top_p * total.low * (1 - ROUNDING), self._top_p * total.high * (1 + ROUNDING)
        )

    def before(self, place: int) -> NDArray[np.bool_]:
        """Which come before this one in the order."""
        z, ids = self._z, self._ids
        earlier: NDArray[np.bool_] = (z > z[place]) | ((z == z[place]) & (ids < ids[place]))
        return earlier

    def keeps(self, place: int) -> bool | None:
        """None: rounding could decide."""
        before = self.before(place)
        rank = int(np.count_nonzero(before))
        if rank == 0:
            return True
        if self._top_k is not None and rank >= self._top_k:
            return False
        verdict: bool | None = True
        if self._top_p < 1.0:
            verdict = self._below_wanted(float(self._masses[before].sum()))
        if verdict is not False and self._min_p > 0.0 and self._z[place] < self.highest:
            verdict = _both(verdict, self._above_least(float(self._z[place])))
        return verdict

    def ends_inside(self, floor: float) -> bool:
        """Whether no token with a value up to `floor`, behind all of these, is kept."""
        if self._top_k is not None:
            return True  # there are as many here, or the contest would not have been held
        if self._top_p < 1.0 and self._below_wanted(float(self._masses.sum())) is False:
            return True
        return self._min_p > 0.0 and self._above_least(floor) is False

    def _below_wanted(self, mass: float) -> bool | None:
        """Whether a prefix of this mass leaves top_p unreached: the token behind it still belongs to it."""
        if mass * (1 + ROUNDING) < self._wanted.low:
            return True
        return False if mass * (1 - ROUNDING) >= self._wanted.high else None

    def _above_least(self, z: float) -> bool | None:
        mass = float(np.exp(z - self.highest))
        if mass >= self._min_p * (1 + ROUNDING):
            return True
        return False if mass < self._min_p * (1 - ROUNDING) else None


def _both(one: bool | None, other: bool | None) -> bool | None:
    return False if other is False else (None if one is None or other is None else True)
