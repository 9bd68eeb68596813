"""Many requests that come at once: each sees those before it, though none is on its way yet."""

from __future__ import annotations

from collections import Counter

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import ChatPrompt, GenerationConfig, RequestId
from tests.protocol.hand import HandWorker

BURST = 16


def burst(worker: HandWorker) -> list[ef.OpenStream]:
    """Their first dials."""
    for number in range(BURST):
        config = GenerationConfig(max_tokens=8, seed=1)
        prompt = ChatPrompt((("user", "hi"),))
        request_id = RequestId(number.to_bytes(16, "big"))
        worker.client.feed(ev.Submit(request_id, "tiny", prompt, config, "2026-11-28"))
    return worker.client.all(ef.OpenStream)


def dialling(worker: HandWorker) -> int:
    ledger = worker.client.core._requester._ledger
    return sum(ledger.peek(signer).dialling for signer in worker.signers)


def test_a_burst_is_shared_by_equal_workers() -> None:
    worker = HandWorker()
    worker.another("second")
    shares = Counter(dial.worker for dial in burst(worker))
    assert shares.total() == BURST
    assert min(shares.values()) >= BURST // 2 - 1, shares
    assert dialling(worker) == BURST


@pytest.mark.parametrize("end", ["opened", "failed", "timed out", "cancelled"])
def test_no_dial_is_counted_once_it_is_over(end: str) -> None:
    worker = HandWorker()
    worker.another("second")
    for number, dial in enumerate(burst(worker)):
        match end:
            case "opened":
                worker.client.feed(ev.StreamOpened(dial.dial, 200 + number))
            case "failed":
                worker.client.feed(ev.DialFailed(dial.dial, "nobody is there", refused=True))
            case "cancelled":
                worker.client.feed(ev.CancelRequest(RequestId(number.to_bytes(16, "big")), "no more"))
    if end in ("failed", "timed out"):
        worker.client.wait(10_000)
    assert dialling(worker) == 0
