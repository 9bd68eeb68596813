"""Writes vectors/sampler_s1.json from the plain reference. Run: python -m tests.engine.make_sampler_vectors

Logits of a case are made by integers alone, so that any language can make them: see `logits_of`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_gossip.protocol.messages import GenerationConfig
from tests.engine import sampler_reference as reference

PATH = Path(__file__).parent / "vectors" / "sampler_s1.json"
SEEDS = (0, 1, 42, 2**63, 2**64 - 1)
POSITIONS = (0, 1, 37, 8191, 2**32)
IDS = (0, 1, 2, 255, 49151, 128255)
CONFIGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_p": 0.5, "top_k": 20},
    {"temperature": 0.9, "top_p": 1.0, "top_k": 3},
    {"temperature": 1.0, "top_p": 1.0, "min_p": 0.05},
    {"temperature": 2.0, "top_p": 0.95, "min_p": 0.01, "top_k": 100},
    {"temperature": 0.0, "repetition": 1.3, "presence": 0.5, "frequency": 0.25},
    {"temperature": 0.8, "top_p": 0.9, "repetition": 1.2, "logit_bias": ((5, 4.0), (7, -100.0), (5, 6.0))},
)
PROMPT, ANSWER = (3, 5, 8, 13), (5, 5, 21, 34)


def logits_of(number: int, size: int) -> list[float]:
    """Multiples of 1/64 in [-8, 8), exact in fp32, with many ties: (bits(number, 0, id) >> 42) / 64 - 8."""
    return [(reference.bits(number, 0, token_id) >> 42) / 64 - 8 for token_id in range(size)]


def noise_cases() -> list[dict[str, Any]]:
    return [
        {
            "seed": str(seed),  # u64 does not survive every JSON reader as a number
            "position": position,
            "token_id": token_id,
            "bits": str(reference.bits(seed, position, token_id)),
            "noise": reference.noise(seed, position, token_id).hex(),
        }
        for seed in SEEDS
        for position in POSITIONS
        for token_id in IDS
    ]


def pick_cases() -> list[dict[str, Any]]:
    cases = []
    for number, options in enumerate(CONFIGS):
        for size in (64, 1500, 6000):
            config = GenerationConfig(seed=1000 + number, **options)
            logits = logits_of(number, size)
            picks = [reference.pick(logits, config, position, PROMPT, ANSWER) for position in (8, 9, 10, 500)]
            cases.append(
                {
                    "logits": number,
                    "size": size,
                    "config": {key: value for key, value in asdict(config).items() if key in options},
                    "seed": str(config.seed),
                    "prompt": PROMPT,
                    "answer": ANSWER,
                    "picks": dict(zip(("8", "9", "10", "500"), picks, strict=True)),
                }
            )
    return cases


def vectors() -> dict[str, Any]:
    return {"sampler": "s1", "noise": noise_cases(), "pick": pick_cases()}


def written() -> str:
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(written(), encoding="utf-8")
