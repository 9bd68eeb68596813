"""Noise of sampler s1: one Gumbel value for each (seed, position, token id), by integer arithmetic.

The law: a pure function, bit for bit the same on every machine, in any order and for any subset of ids, so a
resumed answer needs no generator state and another worker draws the very same values. Only IEEE-754
operations that are correctly rounded everywhere are used; the logarithm is our own, because those of the C
libraries differ in the last bit. docs/sampler.md is the normative text.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float64: TypeAlias = NDArray[np.float64]
UInt64: TypeAlias = NDArray[np.uint64]
Ids: TypeAlias = NDArray[np.int64]

SAMPLER: Final = "s1"  # the version of noise and sampling together; part of every numerics_id

MASK64: Final = 0xFFFF_FFFF_FFFF_FFFF
GOLDEN: Final = 0x9E37_79B9_7F4A_7C15  # SplitMix64's increment
MIX_A: Final = 0xBF58_476D_1CE4_E5B9
MIX_B: Final = 0x94D0_49BB_1331_11EB
U_SCALE: Final = 2.0**-52
LN2: Final = 0.6931471805599453
SQRT_HALF: Final = 0.7071067811865476
LOG_TERMS: Final = 11  # s**(2k)/(2k+1) falls below 2**-54 at k = 10 for |s| <= 0.1716
LOG_COEFFICIENTS: Final = tuple(1.0 / (2 * k + 1) for k in range(LOG_TERMS))
_DESCENDING: Final = LOG_COEFFICIENTS[-2::-1]
NEAR: Final = 1e-9  # far above the last bits in which two logarithms differ
CHUNK: Final = 4096  # counters that stay in the nearest cache while they are mixed
GUMBEL_MAX: Final = 36.8  # above -ln(-ln(1 - 2**-53)), the largest value that noise can take


def mix(value: int) -> int:
    """SplitMix64's finaliser on one 64-bit integer."""
    value &= MASK64
    value = ((value ^ (value >> 30)) * MIX_A) & MASK64
    value = ((value ^ (value >> 27)) * MIX_B) & MASK64
    return value ^ (value >> 31)


def stream_key(seed: int, position: int) -> int:
    """The state of one position's SplitMix64 stream, whose draw number id + 1 belongs to the token."""
    return mix(mix(seed + GOLDEN) + (position + 1) * GOLDEN)


def counter_bits(seed: int, position: int, ids: Ids) -> UInt64:
    """52 uniform bits for each token id."""
    key = np.uint64(stream_key(seed, position))
    x = _almost_mixed((ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN) + key)
    x ^= x >> np.uint64(31)
    return x >> np.uint64(12)


def _almost_mixed(x: UInt64) -> UInt64:
    """`mix` but for its last step, in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(MIX_A)
    x ^= x >> np.uint64(27)
    x *= np.uint64(MIX_B)
    return x


def least_bits(noise: float) -> int:
    """A token with fewer bits has noise below this value: a bound that costs one integer comparison."""
    return max(0, math.floor(math.exp(-math.exp(-max(noise, -3.0))) * (1.0 - 1e-12) * 2.0**52) - 2)


def lucky(seed: int, position: int, vocabulary: int, noise: float) -> Ids:
    """At least the ids below `vocabulary` whose noise reaches this value, ascending.

    The last step of `mix` leaves the highest 31 bits as they are: those are compared, without it.
    """
    least = np.uint64(least_bits(noise) >> 21 << 33)
    key = np.uint64(stream_key(seed, position))
    counters = _counters(vocabulary)
    found = []
    for first in range(0, vocabulary, CHUNK):
        x = _almost_mixed(counters[first : first + CHUNK] + key)
        found.append(first + np.flatnonzero(x >= least))
    return np.concatenate(found)


@lru_cache(maxsize=4)  # a process serves few vocabularies
def _counters(vocabulary: int) -> UInt64:
    return np.arange(1, vocabulary + 1, dtype=np.uint64) * np.uint64(GOLDEN)


def pinned_log(x: Float64) -> Float64:
    """Natural logarithm of positive normal numbers from +, -, *, / alone: the same bits everywhere."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < SQRT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = np.where(low, exponent - 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    s2 = s * s
    series = np.full_like(s, LOG_COEFFICIENTS[-1])
    for coefficient in _DESCENDING:
        series = series * s2 + coefficient
    return exponent * LN2 + (2.0 * s) * series


def gumbel_of(bits: UInt64) -> Float64:
    """-ln(-ln(u)) with u = (bits + 0.5) * 2**-52, never 0 or 1."""
    u = (bits.astype(np.float64) + 0.5) * U_SCALE
    return -pinned_log(-pinned_log(u))


def near_gumbel_of(bits: UInt64) -> Float64:
    """The same within NEAR, by the C library's logarithm: an eighth of the time."""
    return -np.log(-np.log((bits.astype(np.float64) + 0.5) * U_SCALE))


def gumbel_of_one(bits: int) -> float:
    """gumbel_of without an array: a tenth of the time for a single token."""
    return -_pinned_log_of_one(-_pinned_log_of_one((bits + 0.5) * U_SCALE))


def _pinned_log_of_one(x: float) -> float:
    mantissa, exponent = math.frexp(x)
    if mantissa < SQRT_HALF:
        mantissa, exponent = mantissa * 2.0, exponent - 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    s2 = s * s
    series = LOG_COEFFICIENTS[-1]
    for coefficient in _DESCENDING:
        series = series * s2 + coefficient
    return exponent * LN2 + (2.0 * s) * series


def gumbel(seed: int, position: int, ids: Ids) -> Float64:
    """The noise of these token ids at an absolute position (prompt and answer counted together)."""
    return gumbel_of(counter_bits(seed, position, ids))
