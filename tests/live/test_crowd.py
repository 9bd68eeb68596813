"""A crowd: many clients at once on a few worker processes; nobody gets the answer of another."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from llama_gossip import InferenceNode

from .conftest import Spawn, eventually
from .workers import stage

pytestmark = pytest.mark.live

CLIENTS, WORKERS, TOKENS = 20, 4, 60


@pytest.mark.slow
async def test_twenty_clients_on_four_workers_each_get_their_own_answer(tmp_path: Path, spawn: Spawn) -> None:
    async with stage(tmp_path / "home") as setting:  # the home of `spawn` too: one user, one network
        workers = set(await setting.start("scripted:delay_ms=10", WORKERS))
        clients = [await spawn(f"client-{number}") for number in range(CLIENTS)]
        for client in clients:
            await eventually(lambda c=client: workers <= ready(c), "every client sees all workers")  # type: ignore[misc]

        def asked(number: int) -> dict[str, object]:
            return {"max_tokens": TOKENS, "seed": number, "temperature": 0.7, "ignore_eos": True}

        prompts = [f"What does client {number} want?" for number in range(CLIENTS)]
        together = await asyncio.gather(
            *(client.complete(prompts[n], **asked(n)) for n, client in enumerate(clients))
        )
        print(Counter(answer.worker[:10] for answer in together))
        assert {answer.worker for answer in together} <= workers
        assert all(answer.verified for answer in together)
        assert len({answer.text for answer in together}) == CLIENTS
        for number, answer in enumerate(together):  # once more, alone and from another worker
            other = next(worker for worker in sorted(workers) if worker != answer.worker)
            alone = await setting.client.complete(prompts[number], worker=other, **asked(number))
            assert answer.text == alone.text


def ready(node: InferenceNode) -> set[str]:
    return {peer.node_id for peer in node.peers() if peer.state == "ready"}
