"""Logit rows: a step's logits where they lie, and the passes over whole rows that choosing needs.

The law: what comes out is exact or comes with a bound that holds, and from a GPU only few values cross.
torch is imported in functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_gossip.engine.noise import (
    GOLDEN,
    MIX_A,
    MIX_B,
    Float64,
    Ids,
    least_bits,
    lucky,
    stream_key,
)
from llama_gossip.engine.sampling import Float32

if TYPE_CHECKING:
    import torch

SHORTLIST: Final = 1024  # tokens that are looked at first: nearly always the winner is among them
GROUPS: Final = 4096  # whose maxima bound the shortlist: as many as are partitioned in 40 µs
TOTAL_ERROR: Final = 5e-5  # relative, of a total: fp32 rounding of exponents down to exp's underflow at -87


@dataclass(frozen=True, slots=True)
class Extremes:
    """Of each row."""

    lowest: Float32
    highest: Float32  # NaN where the row has one
    first_highest: Ids

    @property
    def finite(self) -> NDArray[np.bool_]:
        good: NDArray[np.bool_] = np.isfinite(self.lowest) & np.isfinite(self.highest)
        return good


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The best tokens of a row, in no particular order."""

    ids: Ids
    logits: Float64
    floor: float  # no token outside has a higher logit; -inf: nothing is outside


@dataclass(frozen=True, slots=True)
class Survey:
    """What is looked at in every step. By row, of those asked about: of a row that is not finite, nothing."""

    extremes: Extremes
    shortlists: Mapping[int, Shortlist]
    totals: Mapping[int, float]  # sum of exp((logit - highest) / temperature), within TOTAL_ERROR


class LogitRows(Protocol):
    def survey(self, contested: Mapping[int, float | None]) -> Survey:
        """The extremes of all rows; of the contested a shortlist, and a total at this temperature if any."""

    def logits(self, row: int, ids: Ids) -> Float64: ...

    def apart(self, row: int, ids: Ids) -> tuple[Float64, float, int]:
        """The logits of these ids, the highest of the others, which are finite, and the lowest id that has
        it; -inf: there are no others."""

    def whole(self, row: int) -> Float32: ...

    def lucky(self, row: int, seed: int, position: int, noise: float) -> tuple[Ids, Float64]:
        """At least the ids whose noise reaches this value, and their logits."""


class HostRows:
    """Rows in the CPU's memory: each pass takes one row, which then stays in its cache."""

    def __init__(self, logits: Float32) -> None:
        self._rows = logits

    def survey(self, contested: Mapping[int, float | None]) -> Survey:
        rows = self._rows
        first = rows.argmax(axis=1)  # NaN counts as the highest
        extremes = Extremes(rows.min(axis=1), rows[np.arange(len(rows)), first], first)
        finite = extremes.finite
        totals = {
            row: self._total(row, extremes.highest[row], temperature)
            for row, temperature in contested.items()
            if temperature is not None and finite[row]
        }
        return Survey(extremes, {row: self._shortlist(rows[row]) for row in contested if finite[row]}, totals)

    def _shortlist(self, x: Float32) -> Shortlist:
        if x.size <= SHORTLIST:
            return Shortlist(np.arange(x.size), x.astype(np.float64), -np.inf)
        across = max(1, x.size // GROUPS)
        groups = x.size // across
        best = x[: groups * across].reshape(across, groups).max(axis=0)
        floor = np.partition(best, groups - SHORTLIST)[groups - SHORTLIST]  # so many reach it, or more
        ids = np.flatnonzero(x >= floor)
        return Shortlist(ids, x[ids].astype(np.float64), float(floor))

    def _total(self, row: int, highest: np.float32, temperature: float) -> float:
        with np.errstate(over="ignore", invalid="ignore"):  # a sum that is not finite decides nothing
            x = self._rows[row] - highest
            x *= np.float32(1.0 / temperature)
            return float(np.exp(x, out=x).sum())

    def logits(self, row: int, ids: Ids) -> Float64:
        found: Float64 = self._rows[row, ids].astype(np.float64)
        return found

    def apart(self, row: int, ids: Ids) -> tuple[Float64, float, int]:
        x = self._rows[row].copy()
        x[ids] = -np.inf
        first = int(x.argmax())
        return self.logits(row, ids), float(x[first]), first

    def whole(self, row: int) -> Float32:
        values: Float32 = self._rows[row]
        return values

    def lucky(self, row: int, seed: int, position: int, noise: float) -> tuple[Ids, Float64]:
        ids = lucky(seed, position, self._rows.shape[1], noise)
        return ids, self.logits(row, ids)


class DeviceRows:
    """Rows in a GPU's memory: each pass takes all rows at once, and what it found comes home together."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._rows = logits

    def survey(self, contested: Mapping[int, float | None]) -> Survey:
        from llama_gossip.engine.transfers import to_host

        highest, first = self._rows.max(dim=1)  # NaN counts as the highest, the first of equal ones is named
        looked_at = self._looked_at(contested, highest) if contested else ()
        lowest, top, names, *found = to_host(self._rows.amin(dim=1), highest, first, *looked_at)
        extremes = Extremes(lowest, top, names)
        if not contested:
            return Survey(extremes, {}, {})
        logits, ids, totals = found
        outside = self._rows.shape[1] > SHORTLIST
        floors = logits[:, -1].tolist() if outside else [-np.inf] * len(contested)
        return Survey(
            extremes,
            {
                row: Shortlist(ids[n], logits[n].astype(np.float64), floors[n])
                for n, row in enumerate(contested)
            },
            {row: float(totals[n]) for n, row in enumerate(contested) if contested[row] is not None},
        )

    def _looked_at(
        self, contested: Mapping[int, float | None], highest: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of these rows: the best logits, their ids, and the totals where one is asked for (else zeros)."""
        import torch

        from llama_gossip.engine.transfers import to_device

        scales = [0.0 if temperature is None else 1.0 / temperature for temperature in contested.values()]
        numbers, factors = to_device((list(contested), scales), self._rows.device, torch.float64)
        which = numbers.long()
        in_order = list(contested) == list(range(len(self._rows)))
        rows = self._rows if in_order else self._rows.index_select(0, which)
        logits, ids = rows.topk(min(SHORTLIST, rows.shape[1]), dim=1)
        if not any(scales):
            return logits, ids, factors
        masses = ((rows - highest.index_select(0, which)[:, None]) * factors.float()[:, None]).exp()
        return logits, ids, masses.sum(dim=1, dtype=torch.float64)

    def logits(self, row: int, ids: Ids) -> Float64:
        return self._found(self._rows[row].index_select(0, self._there(ids)))[0].astype(np.float64)

    def apart(self, row: int, ids: Ids) -> tuple[Float64, float, int]:
        import torch

        there = self._there(ids)
        others = self._rows[row].index_fill(0, there, -torch.inf)
        logits, highest, first = self._found(self._rows[row].index_select(0, there), *others.max(dim=0))
        return logits.astype(np.float64), float(highest), int(first)

    def whole(self, row: int) -> Float32:
        return self._found(self._rows[row])[0]

    def lucky(self, row: int, seed: int, position: int, noise: float) -> tuple[Ids, Float64]:
        import torch

        numbers = torch.arange(1, self._rows.shape[1] + 1, device=self._rows.device)
        bits = _device_bits(stream_key(seed, position), numbers)
        there = torch.nonzero(bits >= least_bits(noise))[:, 0]  # waits: how many there are decides shapes
        ids, logits = self._found(there, self._rows[row].index_select(0, there))
        return ids, logits.astype(np.float64)

    def _there(self, ids: Ids) -> torch.Tensor:
        from llama_gossip.engine.transfers import to_device

        return to_device((ids.tolist(),), self._rows.device)[0]

    def _found(self, *tensors: torch.Tensor) -> list[NDArray[Any]]:
        from llama_gossip.engine.transfers import to_host

        return to_host(*tensors)


def rows_of(logits: torch.Tensor) -> LogitRows:
    """The rows of fp32 logits, shape [rows, vocabulary], where they lie."""
    return HostRows(logits.numpy()) if logits.device.type == "cpu" else DeviceRows(logits)


def _device_bits(key: int, numbers: torch.Tensor) -> torch.Tensor:
    """noise.counter_bits of the ids numbers - 1: signed integers multiply and add to the same bits."""
    x = numbers * _signed(GOLDEN) + _signed(key)
    x = (x ^ _shifted(x, 30)) * _signed(MIX_A)
    x = (x ^ _shifted(x, 27)) * _signed(MIX_B)
    return _shifted(x ^ _shifted(x, 31), 12)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shifted(x: torch.Tensor, places: int) -> torch.Tensor:
    """Logically: zeros come in from the left."""
    return (x >> places) & ((1 << (64 - places)) - 1)
