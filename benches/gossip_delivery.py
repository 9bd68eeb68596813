"""What gossip delivery costs: the same answers over a direct stream and over the topic, on loopback.

Two nodes in this process, a scripted engine that makes a token every 20 ms, interleaved pairs. There are no
bars: the plane is for peers that cannot connect, and a figure says what they can expect.

    benches/gossip_delivery.py [--quick] [--json]
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass

from llama_gossip import InferenceNode, load_engine
from reporting import Figures, main
from workers import until_ready

ENGINE = "scripted:delay_ms=20"
PLANES = ("direct", "gossip")


@dataclass(frozen=True)
class Plan:
    pairs: int = 15
    tokens: int = 100


QUICK = Plan(pairs=5, tokens=50)


async def measure(plan: Plan) -> Figures:
    first_ms: dict[str, list[float]] = defaultdict(list)
    total_ms: dict[str, list[float]] = defaultdict(list)
    async with (
        InferenceNode.open(name="worker", engine=load_engine(ENGINE)) as worker,
        InferenceNode.open(name="client") as client,
    ):
        await until_ready(client, [worker.node_id.hex()])
        before = worker.stats()
        for seed in range(plan.pairs):
            texts = set()
            for plane in PLANES:
                answer = await client.complete("Hello", max_tokens=plan.tokens, seed=seed, delivery=plane)
                assert answer.delivery == plane
                first_ms[plane].append(answer.timings.first_token_ms)
                total_ms[plane].append(answer.timings.total_ms)
                texts.add(answer.text)
            assert len(texts) == 1, "both planes give one text"
        packets = worker.stats()["packets_sent"] - before.get("packets_sent", 0)
    figures: Figures = {}
    for plane in PLANES:
        figures[f"first_token_ms_p50_{plane}"] = statistics.median(first_ms[plane])
        figures[f"tokens_per_s_{plane}"] = plan.tokens * 1_000 / statistics.median(total_ms[plane])
    figures["worker_packets_an_answer"] = packets / plan.pairs
    return figures


if __name__ == "__main__":
    sys.exit(main(__doc__, {}, measure, Plan(), QUICK))
