"""The roster: only a peer's own newest word counts, and only while it is fresh."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.protocol.events import Now
from llama_gossip.protocol.messages import Head, Leave, NodeId, NodeState
from llama_gossip.protocol.roster import MAX_PEERS, RESERVED_PEERS, Change, Roster
from llama_gossip.protocol.timers import Timers
from tests.protocol.hand import OWN_BOOT, announce

PEER = NodeId(b"p" * 32)


def at(mono_ms: int) -> Now:
    return Now(mono_ms, 1_790_000_000_000 + mono_ms)


def roster() -> Roster:
    return Roster(timers=Timers())


def leave(boot: int, seq: int) -> Leave:
    return Leave(Head(boot, seq, 0), "bye")


def test_a_peer_is_there_after_its_announce_and_gone_after_its_ttl() -> None:
    known = roster()
    assert known.apply(PEER, announce(ttl_ms=45_000), at(0)) is Change.NEW
    assert [view.node_id for view in known.views(at(44_999))] == [PEER]
    assert known.views(at(45_000)) == ()
    assert known.next_expiry() == 45_000
    assert known.expire(at(44_999)) == []
    assert [node_id for node_id, _ in known.expire(at(45_000))] == [PEER]
    assert PEER not in known


def test_an_announced_ttl_is_clamped_to_three_minutes() -> None:
    known = roster()
    known.apply(PEER, announce(ttl_ms=10**9), at(0))
    assert known.next_expiry() == 180_000


def test_freshness_is_by_local_receipt_whatever_the_announce_says_about_time() -> None:
    known = roster()
    known.apply(PEER, announce(seq=1), at(0))
    known.apply(PEER, announce(seq=2), at(40_000))
    (view,) = known.views(at(50_000))
    assert view.last_seen_ms == 10_000


def test_an_older_announce_that_arrives_late_changes_nothing() -> None:
    known = roster()
    known.apply(PEER, announce(seq=5), at(0))
    late = announce(seq=4, state=NodeState.DRAINING)
    assert known.apply(PEER, late, at(1)) is Change.OLD
    assert known.apply(PEER, announce(seq=5), at(40_000)) is Change.OLD, "nor does a repetition refresh"
    (view,) = known.views(at(2))
    assert (view.state, view.last_seen_ms) == (NodeState.READY, 2)


def test_a_new_boot_beats_any_seq_of_the_old_one() -> None:
    known = roster()
    known.apply(PEER, announce(boot=OWN_BOOT, seq=1_000), at(0))
    assert known.apply(PEER, announce(boot=OWN_BOOT + 1, seq=1), at(1)) is Change.REBOOTED
    assert known.apply(PEER, announce(boot=OWN_BOOT, seq=1_001), at(2)) is Change.OLD


def test_a_leave_removes_the_peer_and_late_announces_do_not_bring_it_back() -> None:
    known = roster()
    known.apply(PEER, announce(seq=5), at(0))
    assert known.leave(PEER, leave(OWN_BOOT, 7), at(1))
    assert known.apply(PEER, announce(seq=6), at(2)) is Change.OLD
    assert PEER not in known
    assert known.apply(PEER, announce(boot=OWN_BOOT + 1, seq=1), at(3)) is Change.NEW


def test_a_leave_that_comes_before_its_announce_wins() -> None:
    known = roster()
    assert not known.leave(PEER, leave(OWN_BOOT, 7), at(0))
    assert known.apply(PEER, announce(seq=6), at(1)) is Change.OLD


def test_an_old_leave_does_not_remove_a_peer_that_came_back() -> None:
    known = roster()
    known.apply(PEER, announce(boot=OWN_BOOT + 1, seq=1), at(0))
    assert not known.leave(PEER, leave(OWN_BOOT, 900), at(1))
    assert PEER in known


def test_what_is_gone_is_forgotten_after_two_minutes() -> None:
    known = roster()
    known.leave(PEER, leave(OWN_BOOT, 7), at(0))
    known.expire(at(120_000))
    assert known.next_expiry() is None
    assert known.apply(PEER, announce(seq=1), at(120_001)) is Change.NEW


def fill(known: Roster, count: int) -> None:
    for number in range(count):
        known.apply(NodeId(number.to_bytes(32, "big")), announce(), at(0))


def test_a_crowd_of_strangers_leaves_a_quarter_of_the_table_to_friends() -> None:
    friend = NodeId(b"f" * 32)
    known = Roster(timers=Timers(), allowlist=frozenset({friend}))
    fill(known, MAX_PEERS)
    assert len(known) == MAX_PEERS - RESERVED_PEERS
    assert known.apply(PEER, announce(), at(1)) is Change.FULL
    assert known.apply(friend, announce(), at(1)) is Change.NEW


def test_the_view_tells_what_the_peer_said_of_itself() -> None:
    known = roster()
    said = announce(features=("role/hybrid", "v/0.1.0"), addresses=("127.0.0.1:9",))
    known.apply(PEER, replace(said, node_name="kitchen"), at(0))
    (view,) = known.views(at(5))
    assert (view.name, view.role, view.boot, view.addresses) == (
        "kitchen",
        "hybrid",
        OWN_BOOT,
        ("127.0.0.1:9",),
    )


@given(st.permutations([(1, 1), (1, 2), (2, 1), (2, 3), (3, 1)]))
def test_in_whatever_order_announces_arrive_the_newest_stands(order: list[tuple[int, int]]) -> None:
    known = roster()
    for boot, seq in order:
        known.apply(PEER, announce(boot=boot, seq=seq), at(0))
    peer = known.get(PEER)
    assert peer is not None
    assert peer.order == (3, 1)
