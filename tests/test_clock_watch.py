"""The clock watch: a clock that is off is told once, with what follows from it."""

from __future__ import annotations

import logging
import random

import pytest

from llama_gossip.clock_watch import ClockWatch, sentence
from llama_gossip.driver import Driver, now
from llama_gossip.engine_slot import EngineSlot
from llama_gossip.protocol import events
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import KeySigner, sign_envelope
from llama_gossip.protocol.messages import Head, Leave
from llama_gossip.telemetry import Telemetry

NET_ID = bytes(32)


@pytest.mark.parametrize("skew_ms", [0, 10_000, -10_000])
def test_a_clock_within_ten_seconds_is_no_news(skew_ms: int) -> None:
    assert ClockWatch().look(skew_ms) is None


def test_each_worsening_is_told_once_and_again_only_after_the_clock_was_right() -> None:
    watch = ClockWatch()
    skews = [10_001, 12_000, 30_001, 40_000, 12_000, 31_000, 4_999, -10_001, -11_000]
    assert [watch.look(skew) is not None for skew in skews] == [
        True, False, True, False, False, False, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("skew_ms", "direction", "effects"),
    [
        (11_000, "11 s behind", "beyond 30 s messages are lost"),
        (-11_000, "11 s ahead of", "beyond 30 s messages are lost"),
        (31_000, "31 s behind", "clocks: it drops theirs;"),
        (61_000, "61 s behind", "clocks: they drop its messages and it drops theirs;"),
        (-31_000, "31 s ahead of", "clocks: they drop its messages;"),
        (-61_000, "61 s ahead of", "clocks: they drop its messages and it drops theirs;"),
    ],
)
def test_the_sentence_says_who_drops_whose_messages(skew_ms: int, direction: str, effects: str) -> None:
    told = sentence(skew_ms)
    assert direction in told
    assert effects in told
    assert told.endswith("set the clock")


async def test_a_node_outside_the_window_is_told_why_nobody_hears_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    signer, peer = KeySigner(bytes(32)), KeySigner(b"p" * 32)
    core = Core(signer=signer, net_id=NET_ID, boot=1, node_name="node", rng=random.Random(1))
    driver = Driver(core, signer.node_id)
    telemetry = Telemetry(driver, EngineSlot(driver, trusted=True))
    try:
        hour_behind = Leave(Head(1, 1, now().wall_ms - 3_600_000), "bye")
        driver.feed(events.GossipReceived(peer.node_id, sign_envelope(hour_behind, peer, NET_ID)))
        with caplog.at_level(logging.WARNING, logger="llama_gossip"):
            telemetry._beat()
            telemetry._beat()
        (record,) = [r for r in caplog.records if r.name == "llama_gossip.telemetry"]
        assert "3600 s ahead of its peers' clocks: they drop its messages" in record.getMessage()
        assert core.counters()["dropped_stale"] == 1
    finally:
        await telemetry.stop()
        driver.stop()
