"""Rates from counters, over the time that really passed."""

from __future__ import annotations

import pytest

from llama_gossip.gateway.throughput import KEPT, Throughput


def test_a_rate_is_of_the_time_between_two_looks() -> None:
    one = Throughput()
    one.look(10.0, 500)
    assert one.now == 0.0
    one.look(12.0, 600)
    assert one.now == pytest.approx(50.0)
    assert len(one.history) == KEPT


def test_a_look_too_soon_counts_with_the_next() -> None:
    one = Throughput()
    one.look(10.0, 0)
    one.look(10.2, 80)
    assert one.now == 0.0
    one.look(11.0, 100)
    assert one.now == pytest.approx(100.0)
