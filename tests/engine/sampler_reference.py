"""Sampler s1 a second time, written from docs/sampler.md with Python's own ints, floats and sort: no numpy.

Slow and plain on purpose: it sorts the whole vocabulary and draws noise for every survivor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llama_gossip.protocol.messages import GenerationConfig

M = (1 << 64) - 1
G = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x &= M
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & M
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & M
    return x ^ (x >> 31)


def bits(seed: int, position: int, token_id: int) -> int:
    key = mix(mix(seed + G) + (position + 1) * G)
    return mix(key + (token_id + 1) * G) >> 12


def log(x: float) -> float:
    m, e = math.frexp(x)
    if m < 0.7071067811865476:
        m, e = m * 2.0, e - 1
    s = (m - 1.0) / (m + 1.0)
    s2 = s * s
    series = 1.0 / 21.0
    for k in range(9, -1, -1):
        series = series * s2 + 1.0 / (2 * k + 1)
    return e * 0.6931471805599453 + (2.0 * s) * series


def noise(seed: int, position: int, token_id: int) -> float:
    u = (bits(seed, position, token_id) + 0.5) * 2.0**-52
    return -log(-log(u))


def adjusted(
    logits: Sequence[float], config: GenerationConfig, prompt: Sequence[int], answer: Sequence[int]
) -> list[float]:
    x = list(logits)
    if config.repetition != 1.0:
        for token_id in {*prompt, *answer}:
            value = x[token_id]
            x[token_id] = value / config.repetition if value > 0 else value * config.repetition
    for token_id in set(answer):
        x[token_id] -= config.frequency * answer.count(token_id) + config.presence
    for token_id, bias in dict(config.logit_bias).items():
        x[token_id] += bias
    return x


def pick(
    logits: Sequence[float],
    config: GenerationConfig,
    position: int,
    prompt: Sequence[int] = (),
    answer: Sequence[int] = (),
) -> int:
    x = adjusted(logits, config, prompt, answer)
    if config.temperature < 1e-5:
        return x.index(max(x))
    z = [value / config.temperature for value in x]
    ids = sorted(range(len(z)), key=lambda i: (-z[i], i))
    if config.top_k is not None:
        ids = ids[: config.top_k]
    highest = z[ids[0]]
    if config.top_p < 1.0:
        masses = [math.exp(z[i] - highest) for i in ids]
        wanted, reached, count = config.top_p * math.fsum(masses), 0.0, 0
        while count < len(ids):
            reached += masses[count]
            count += 1
            if reached >= wanted:
                break
        ids = ids[:count]
    if config.min_p > 0.0:
        ids = [i for i in ids if math.exp(z[i] - highest) >= config.min_p]
    return min(ids, key=lambda i: (-(z[i] + noise(config.seed, position, i)), i))
