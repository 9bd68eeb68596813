"""Logit rows: a step's logits where they lie, and the passes over whole rows that choosing needs.

The law: what comes out is exact or comes with a bound that holds, and from a GPU only few values cross.
torch is imported in functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

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
TOTAL_ERROR: Final = 5e-5  # relative, of `totals`: fp32 rounding of exponents down to exp's underflow at -87


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


class LogitRows(Protocol):
    def extremes(self) -> Extremes: ...

    def shortlists(self, rows: Sequence[int]) -> list[Shortlist]: ...

    def totals(self, rows: Sequence[int], highest: Float32, temperatures: Sequence[float]) -> Float64:
        """Sum of exp((logit - highest) / temperature) over each of these rows, within TOTAL_ERROR."""

    def logits(self, row: int, ids: Ids) -> Float64: ...

    def highest_but(self, row: int, ids: Ids) -> tuple[float, int]:
        """The highest logit of the other ids, which are finite, and the lowest id that has it; -inf: none."""

    def whole(self, row: int) -> Float32: ...

    def lucky(self, row: int, seed: int, position: int, noise: float) -> Ids:
        """At least the ids whose noise reaches this value."""


class HostRows:
    """Rows in the CPU's memory: each pass takes one row, which then stays in its cache."""

    def __init__(self, logits: Float32) -> None:
        self._rows = logits

    def extremes(self) -> Extremes:
        rows = self._rows
        first = rows.argmax(axis=1)  # NaN counts as the highest
        return Extremes(rows.min(axis=1), rows[np.arange(len(rows)), first], first)

    def shortlists(self, rows: Sequence[int]) -> list[Shortlist]:
        return [self._shortlist(self._rows[row]) for row in rows]

    def _shortlist(self, x: Float32) -> Shortlist:
        if x.size <= SHORTLIST:
            return Shortlist(np.arange(x.size), x.astype(np.float64), -np.inf)
        across = max(1, x.size // GROUPS)
        groups = x.size // across
        best = x[: groups * across].reshape(across, groups).max(axis=0)
        floor = np.partition(best, groups - SHORTLIST)[groups - SHORTLIST]  # so many reach it, or more
        ids = np.flatnonzero(x >= floor)
        return Shortlist(ids, x[ids].astype(np.float64), float(floor))

    def totals(self, rows: Sequence[int], highest: Float32, temperatures: Sequence[float]) -> Float64:
        sums = np.zeros(len(rows))
        with np.errstate(over="ignore", invalid="ignore"):  # a sum that is not finite decides nothing
            for n, (row, top, temperature) in enumerate(zip(rows, highest, temperatures, strict=True)):
                x = self._rows[row] - top
                x *= np.float32(1.0 / temperature)
                sums[n] = np.exp(x, out=x).sum()
        return sums

    def logits(self, row: int, ids: Ids) -> Float64:
        found: Float64 = self._rows[row, ids].astype(np.float64)
        return found

    def highest_but(self, row: int, ids: Ids) -> tuple[float, int]:
        x = self._rows[row].copy()
        x[ids] = -np.inf
        first = int(x.argmax())
        return float(x[first]), first

    def whole(self, row: int) -> Float32:
        values: Float32 = self._rows[row]
        return values

    def lucky(self, row: int, seed: int, position: int, noise: float) -> Ids:
        return lucky(seed, position, self._rows.shape[1], noise)


class DeviceRows:
    """Rows in a GPU's memory: each pass takes all rows at once and brings home what it found."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._rows = logits

    def extremes(self) -> Extremes:
        import torch

        highest, first = self._rows.max(dim=1)  # NaN counts as the highest, the first of equal ones is named
        found = torch.stack((self._rows.amin(dim=1), highest)).cpu().numpy()
        return Extremes(found[0], found[1], first.cpu().numpy())

    def shortlists(self, rows: Sequence[int]) -> list[Shortlist]:
        size = self._rows.shape[1]
        values, ids = self._taken(rows).topk(min(SHORTLIST, size), dim=1)
        logits, names = values.double().cpu().numpy(), ids.cpu().numpy()
        whole = size <= SHORTLIST
        return [
            Shortlist(names[n], logits[n], -np.inf if whole else float(logits[n, -1]))
            for n in range(len(rows))
        ]

    def totals(self, rows: Sequence[int], highest: Float32, temperatures: Sequence[float]) -> Float64:
        import torch

        device = self._rows.device
        top = torch.from_numpy(np.asarray(highest)).to(device)[:, None]
        scale = torch.tensor([1.0 / t for t in temperatures], dtype=torch.float32).to(device)[:, None]
        masses = ((self._taken(rows) - top) * scale).exp()
        sums: Float64 = masses.sum(dim=1, dtype=torch.float64).cpu().numpy()
        return sums

    def _taken(self, rows: Sequence[int]) -> torch.Tensor:
        return self._rows if len(rows) == len(self._rows) else self._rows[list(rows)]

    def logits(self, row: int, ids: Ids) -> Float64:
        import torch

        found: Float64 = self._rows[row, torch.from_numpy(ids).to(self._rows.device)].double().cpu().numpy()
        return found

    def highest_but(self, row: int, ids: Ids) -> tuple[float, int]:
        import torch

        x = self._rows[row].clone()
        x[torch.from_numpy(ids).to(x.device)] = -torch.inf
        highest, first = x.max(dim=0)
        return float(highest), int(first)

    def whole(self, row: int) -> Float32:
        values: Float32 = self._rows[row].cpu().numpy()
        return values

    def lucky(self, row: int, seed: int, position: int, noise: float) -> Ids:
        import torch

        ids = torch.arange(1, self._rows.shape[1] + 1, device=self._rows.device)
        bits = _device_bits(stream_key(seed, position), ids)
        found: Ids = torch.nonzero(bits >= least_bits(noise))[:, 0].cpu().numpy()
        return found


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
