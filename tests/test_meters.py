"""Meters: what is observed of tokens, waits and signatures, and that nothing is counted twice or lost."""

from __future__ import annotations

import pytest

from llama_gossip.histogram import Histogram
from llama_gossip.meters import Gaps, Meters
from llama_gossip.protocol.messages import NodeId


def test_a_value_falls_into_the_bucket_that_ends_with_it_and_buckets_are_cumulated() -> None:
    seen = Histogram((1.0, 2.0, 4.0))
    for value in (0.5, 1.0, 1.5, 4.0, 100.0):
        seen.observe(value)
    assert seen.cumulated() == [2, 3, 4, 5]
    assert (seen.count, seen.sum) == (5, 107.0)


def test_one_value_may_count_for_several() -> None:
    seen = Histogram((1.0,))
    seen.observe(0.25, 4)
    assert (seen.cumulated(), seen.sum) == ([4, 4], 1.0)


@pytest.mark.parametrize("bounds", [(), (2.0, 1.0), (1.0, 1.0)])
def test_bounds_that_do_not_ascend_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        Histogram(bounds)


def test_gaps_are_the_tokens_but_the_first_and_the_time_from_that_to_the_last() -> None:
    seen = Histogram((0.1, 1.0))
    gaps = Gaps(seen)
    gaps.tokens("answer", 2, 10.0)
    gaps.tokens("answer", 1, 10.5)
    gaps.tokens("answer", 0, 11.0)
    gaps.tokens("answer", 5, 11.0)
    assert (seen.count, seen.sum) == (6, pytest.approx(1.0))
    assert seen.cumulated() == [5, 6, 6]


def test_gaps_of_one_answer_know_nothing_of_another_nor_of_an_earlier_one_of_its_name() -> None:
    seen = Histogram((1.0,))
    gaps = Gaps(seen)
    gaps.tokens("one", 1, 0.0)
    gaps.tokens("other", 1, 100.0)
    gaps.over("one")
    gaps.over("one")
    gaps.tokens("one", 1, 200.0)
    assert seen.count == 0


def test_a_timed_verifier_says_what_its_own_says_and_observes_each() -> None:
    asked: list[tuple[bytes, bytes, bytes]] = []

    def verify(node_id: NodeId, message: bytes, signature: bytes) -> bool:
        asked.append((node_id, message, signature))
        return message == b"good"

    meters = Meters()
    timed = meters.timed(verify)
    peer = NodeId(b"p" * 32)
    assert [timed(peer, message, b"s") for message in (b"good", b"bad")] == [True, False]
    assert asked == [(peer, b"good", b"s"), (peer, b"bad", b"s")]
    assert meters.verify_s.count == 2
    assert meters.verify_s.sum > 0
