"""Go-back-N by itself: whatever is lost, repeated or turned round, all comes once and in order."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.protocol.limits import MAX_AHEAD_ITEMS
from llama_gossip.protocol.tunnel_repair import Order, Outbox


def filled(count: int) -> Outbox:
    outbox = Outbox()
    for n in range(count):
        outbox.add(b"%d" % n)
    return outbox


def test_frames_are_taken_in_order_as_far_as_there_is_room() -> None:
    outbox = filled(5)
    assert outbox.take(12) == [b"0", b"1"]  # five bytes each, with the prefix
    assert outbox.take(4) == []
    assert outbox.take(100) == [b"2", b"3", b"4"]
    assert (outbox.unsent, outbox.unacked) == (0, 5)


def test_going_back_sends_what_is_not_acked_and_nothing_else() -> None:
    outbox = filled(5)
    outbox.take(100)
    assert outbox.ack(3)
    outbox.go_back()
    assert outbox.take(100) == [b"3", b"4"]


def test_an_ack_that_is_lower_than_one_before_does_not_count() -> None:
    outbox = filled(5)
    assert outbox.ack(3)
    assert not outbox.ack(2)
    assert outbox.ack(3), "the same again does: it says that somebody is there"
    assert (outbox.base, outbox.next_n) == (3, 5)


def test_nobody_can_ack_what_does_not_exist() -> None:
    outbox = filled(2)
    assert not outbox.ack(3)
    assert outbox.unacked == 2


def test_numbers_stay_used_when_nobody_waits_for_the_frames_any_more() -> None:
    outbox = filled(3)
    outbox.clear()
    assert (outbox.next_n, outbox.unacked, outbox.take(100)) == (3, 0, [])


def test_what_comes_too_early_waits_for_what_is_missing() -> None:
    order = Order()
    assert order.take(2, b"c") == []
    assert order.take(1, b"b") == []
    assert order.take(0, b"a") == [b"a", b"b", b"c"]
    assert order.take(1, b"b") == []
    assert order.next_n == 3


def test_only_so_much_is_kept_of_what_comes_too_early() -> None:
    order = Order()
    for n in range(1, 5 * MAX_AHEAD_ITEMS):
        order.take(n, bytes(2_000))
    assert len(order._ahead) <= MAX_AHEAD_ITEMS
    assert order._ahead_bytes <= 2_000 * MAX_AHEAD_ITEMS
    kept = len(order._ahead)
    assert len(order.take(0, b"a")) == 1 + kept


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.floats(0, 0.8))
def test_all_comes_once_and_in_order_whatever_the_way_does(seed: int, count: int, loss: float) -> None:
    rng, outbox, order, got = random.Random(seed), filled(count), Order(), []
    for _ in range(5_000):
        if not outbox.unacked:
            break
        if not outbox.unsent:
            outbox.go_back()
        n = outbox.next_n - outbox.unsent
        sent = list(enumerate(outbox.take(rng.randint(6, 200)), n))
        rng.shuffle(sent)
        for number, item in sent:
            for _ in range(rng.choice((1, 1, 2))):
                if rng.random() >= loss:
                    got += order.take(number, item)
        if rng.random() >= loss:
            outbox.ack(rng.randint(0, order.next_n))
    assert outbox.ack(order.next_n)
    outbox.go_back()
    for number, item in enumerate(outbox.take(10_000), outbox.base):
        got += order.take(number, item)
    assert got == [b"%d" % n for n in range(count)]
