"""Noise of sampler s1: one Gumbel value for each (seed, position, token id), by integer arithmetic.

The law: a pure function, bit for bit the same on every machine, in any order and for any subset of ids, so a
resumed answer needs no generator state and another worker draws the very same values. Only IEEE-754
operations that are correctly rounded everywhere are used; the logarithm is our own, because those of the C
libraries differ in the last bit. docs/sampler.md is the normative text.
"""

from __future__ import annotations

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
    x = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN) + key
    x ^= x >> np.uint64(30)
    x *= np.uint64(MIX_A)
    x ^= x >> np.uint64(27)
    x *= np.uint64(MIX_B)
    x ^= x >> np.uint64(31)
    return x >> np.uint64(12)


def pinned_log(x: Float64) -> Float64:
    """Natural logarithm of positive normal numbers from +, -, *, / alone: the same bits everywhere."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < SQRT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = np.where(low, exponent - 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    s2 = s * s
    series = np.full_like(s, LOG_COEFFICIENTS[-1])
    for coefficient in reversed(LOG_COEFFICIENTS[:-1]):
        series = series * s2 + coefficient
    return exponent * LN2 + (2.0 * s) * series


def gumbel_of(bits: UInt64) -> Float64:
    """-ln(-ln(u)) with u = (bits + 0.5) * 2**-52, never 0 or 1."""
    u = (bits.astype(np.float64) + 0.5) * U_SCALE
    return -pinned_log(-pinned_log(u))


def gumbel(seed: int, position: int, ids: Ids) -> Float64:
    """The noise of these token ids at an absolute position (prompt and answer counted together)."""
    return gumbel_of(counter_bits(seed, position, ids))
