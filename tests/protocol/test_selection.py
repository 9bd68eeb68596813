"""Selection: who cannot, who must not now, and who is better."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from llama_gossip.protocol.events import Now
from llama_gossip.protocol.ledger import Ledger
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.roster import Peer, Roster
from llama_gossip.protocol.selection import Candidate, Chooser, Want, survey
from llama_gossip.protocol.timers import Timers
from tests.protocol.hand import announce
from tests.protocol.scripted_model import DIGEST, ScriptedModel

NOW = Now(100_000, 0)
SLOTS = 8
WANT = Want("tiny", None, 11, 10, None)
A, B, C = (NodeId(letter * 32) for letter in (b"a", b"b", b"c"))


def peer(**capacity: Any) -> Peer:
    said = announce(model=ScriptedModel())
    said = replace(said, capacity=replace(said.capacity, **capacity))
    return Peer(said, NOW.mono_ms, NOW.mono_ms + 45_000)


def candidates(**peers: Peer) -> list[Candidate]:
    ids = {"a": A, "b": B, "c": C}
    found = survey([(ids[n], p) for n, p in peers.items()], WANT, allowlist=None, now=NOW)
    assert not found.unfit
    return found.fit


def chooser(ledger: Ledger | None = None, *, explore: float = 0.0, seed: int = 0) -> Chooser:
    return Chooser(ledger or Ledger(timers=Timers()), Timers(), random.Random(seed), explore)


def picks(pool: list[Candidate], by: Chooser, times: int = 300) -> Counter[NodeId]:
    chosen = [by.choose(pool, WANT, barred=lambda _: False, now=NOW) for _ in range(times)]
    return Counter(c.node_id for c in chosen if c is not None)


def test_of_two_workers_the_faster_one_is_always_taken() -> None:
    pool = candidates(a=peer(tokens_per_s=10.0), b=peer(tokens_per_s=100.0))
    assert picks(pool, chooser()) == {B: 300}


def test_of_three_the_worst_is_never_taken_and_the_others_share() -> None:
    pool = candidates(a=peer(tokens_per_s=1.0), b=peer(tokens_per_s=100.0), c=peer(tokens_per_s=90.0))
    shares = picks(pool, chooser())
    assert shares[A] == 0
    assert shares[B] > shares[C] > 50


def test_five_percent_of_the_picks_explore() -> None:
    pool = candidates(a=peer(tokens_per_s=1.0), b=peer(tokens_per_s=100.0))
    share = picks(pool, chooser(explore=0.05), times=4_000)[A]
    assert 60 < share < 140, "half of 5 % of 4 000"


def test_own_measurements_go_before_announced_values() -> None:
    ledger = Ledger(timers=Timers())
    ledger.success(A, 500.0, SLOTS)
    ledger.first_token(A, 20.0)
    ledger.success(B, 2.0, SLOTS)
    pool = candidates(a=peer(tokens_per_s=1.0), b=peer(tokens_per_s=1_000.0))
    assert picks(pool, chooser(ledger)) == {A: 300}


def test_own_requests_in_flight_count_before_the_worker_announces_them() -> None:
    ledger = Ledger(timers=Timers())
    ledger.start(A)
    ledger.start(A)
    pool = candidates(a=peer(), b=peer())
    assert picks(pool, chooser(ledger)) == {B: 300}
    ledger.end(A)
    ledger.end(A)
    ledger.start(B)
    ledger.end(B)
    assert picks(pool, chooser(ledger)) == {A: 300}, "as good as B, and asked longer ago"


def test_an_old_announced_load_does_not_hide_that_own_requests_have_ended() -> None:
    ledger = Ledger(timers=Timers())
    for _ in range(5):
        ledger.start(A)
    ledger.announced(A, 5)  # all of them this node's
    pool = candidates(a=peer(current_load=5), b=peer(current_load=1))
    assert picks(pool, chooser(ledger)) == {B: 300}
    for _ in range(5):
        ledger.end(A)
    assert picks(pool, chooser(ledger)) == {A: 300}


def test_the_jobs_of_others_count_beside_the_own_ones() -> None:
    ledger = Ledger(timers=Timers())
    ledger.start(A)
    ledger.announced(A, 4)
    ledger.end(A)
    pool = candidates(a=peer(current_load=4), b=peer(current_load=2))
    assert picks(pool, chooser(ledger)) == {B: 300}


def test_of_two_that_are_alike_the_one_asked_longer_ago_is_taken() -> None:
    ledger = Ledger(timers=Timers())
    pool = candidates(a=peer(tokens_per_s=10.0), b=peer(tokens_per_s=11.5))
    taken = []
    for _ in range(20):
        [chosen] = picks(pool, chooser(ledger), times=1)
        taken.append(chosen)
        ledger.start(chosen)
        ledger.end(chosen)
    assert taken[1:] == [A if node == B else B for node in taken[:-1]], "in turn"
    pool = candidates(a=peer(tokens_per_s=10.0), b=peer(tokens_per_s=13.0))
    ledger.start(B)
    ledger.end(B)
    assert picks(pool, chooser(ledger)) == {B: 300}, "one that is faster is not alike"


def test_a_worker_that_was_never_asked_is_thought_as_quick_as_the_others_are() -> None:
    ledger = Ledger(timers=Timers())
    ledger.first_token(A, 15)
    pool = candidates(a=peer(tokens_per_s=1_000.0), b=peer(tokens_per_s=1_000.0))
    assert picks(pool, chooser(ledger)).keys() == {A, B}
    ledger.start(A)
    ledger.end(A)
    assert picks(pool, chooser(ledger)) == {B: 300}


def test_a_queue_is_avoided() -> None:
    pool = candidates(a=peer(current_load=2, queue_depth=4), b=peer(current_load=1))
    assert picks(pool, chooser()) == {B: 300}


def test_a_stale_announce_counts_as_saturated() -> None:
    pool = candidates(a=peer(tokens_per_s=1_000.0), b=peer())
    stale = replace(pool[0], received_mono_ms=NOW.mono_ms - 20_001)
    assert picks([stale, pool[1]], chooser()) == {B: 300}
    assert picks([stale], chooser()) == {A: 300}


def test_a_worker_on_cooldown_is_left_out_unless_all_are() -> None:
    ledger = Ledger(timers=Timers())
    pool = candidates(a=peer(tokens_per_s=1_000.0), b=peer())
    ledger.fault(A, NOW.mono_ms)
    assert picks(pool, chooser(ledger)) == {B: 300}
    ledger.fault(B, NOW.mono_ms)
    assert A in picks(pool, chooser(ledger))


def test_cooldowns_double_up_to_five_minutes_and_success_forgives() -> None:
    ledger = Ledger(timers=Timers())
    spans = []
    for _ in range(7):
        ledger.fault(A, 0)
        spans.append(ledger.peek(A).cooldown_until_ms)
    assert spans == [15_000, 30_000, 60_000, 120_000, 240_000, 300_000, 300_000]
    ledger.success(A, None, SLOTS)
    ledger.fault(A, 0)
    assert ledger.peek(A).cooldown_until_ms == 15_000
    ledger.fault(A, 0, least_ms=300_000)
    assert ledger.peek(A).cooldown_until_ms == 300_000


def test_a_worker_that_asked_for_patience_gets_it() -> None:
    ledger = Ledger(timers=Timers())
    pool = candidates(a=peer())
    ledger.hold(A, NOW.mono_ms + 1)
    assert not picks(pool, chooser(ledger))
    assert chooser(ledger).available(pool[0], Now(NOW.mono_ms + 1, 0))


def test_a_failed_worker_is_out_until_it_signs_a_newer_announce() -> None:
    ledger = Ledger(timers=Timers())
    (candidate,) = candidates(a=peer())
    ledger.out(A, candidate.order, NOW.mono_ms)
    assert not picks([candidate], chooser(ledger))
    boot, seq = candidate.order
    assert picks([replace(candidate, order=(boot, seq + 1))], chooser(ledger)) == {A: 300}


def test_what_a_request_bars_is_never_chosen() -> None:
    pool = candidates(a=peer(), b=peer())
    for _ in range(50):
        chosen = chooser().choose(pool, WANT, barred=lambda n: n == A, now=NOW)
        assert chosen is not None
        assert chosen.node_id == B
    assert chooser().choose(pool, WANT, barred=lambda _: True, now=NOW) is None


def test_one_seed_makes_one_sequence_of_picks() -> None:
    pool = candidates(a=peer(), b=peer(), c=peer())
    runs = []
    for _ in range(2):
        by = chooser(seed=7, explore=0.5)
        runs.append([by.choose(pool, WANT, barred=lambda _: False, now=NOW) for _ in range(50)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("want", "fits"),
    [
        (Want("", None, 1, 10, None), True),
        (Want("other", None, 1, 10, None), False),
        (Want("tiny", DIGEST, 1, 10, None), True),
        (Want("tiny", bytes(32), 1, 10, None), False),
        (Want("tiny", None, 512, 10, None), True),
        (Want("tiny", None, 513, 10, None), False),
        (Want("tiny", None, 1, 10, A), True),
        (Want("tiny", None, 1, 10, B), False),
    ],
)
def test_the_filter_keeps_exactly_those_who_can(want: Want, fits: bool) -> None:
    found = survey([(A, peer())], want, allowlist=None, now=NOW)
    assert bool(found.fit) is fits
    assert len(found.fit) + len(found.unfit) == 1


def test_nobody_off_the_allowlist_is_asked() -> None:
    found = survey([(A, peer()), (B, peer())], WANT, allowlist=frozenset({B}), now=NOW)
    assert [candidate.node_id for candidate in found.fit] == [B]


def test_a_peer_past_its_ttl_is_not_even_a_reason() -> None:
    roster = Roster(timers=Timers())
    roster.apply(A, announce(ttl_ms=1_000), NOW)
    found = survey(roster.items(), WANT, allowlist=None, now=Now(NOW.mono_ms + 1_000, 0))
    assert (found.fit, found.unfit) == ([], [])


def closed_loop(
    speeds: dict[NodeId, float], *, serial: bool, requests: int, seed: int
) -> tuple[Counter[NodeId], float]:
    """Answers a worker, and the share of the time that the workers were busy. Workers step a token at a time:
    a serial one for one of its requests in turn, a batching one for all of them. Stepped in virtual time."""
    ledger = Ledger(timers=Timers())
    by = chooser(ledger, explore=0.05, seed=seed)
    pool = candidates(**{n.decode()[0]: peer(max_concurrent=SLOTS, tokens_per_s=0.0) for n in speeds})
    running: dict[NodeId, list[list[float]]] = {n: [] for n in speeds}
    answers: Counter[NodeId] = Counter()
    busy = steps = 0
    while answers.total() < requests:
        while sum(map(len, running.values())) < 4 * len(speeds):
            chosen = by.choose(pool, WANT, barred=lambda _: False, now=NOW)
            assert chosen is not None
            ledger.start(chosen.node_id)
            ledger.first_token(chosen.node_id, 20.0)
            running[chosen.node_id].append([0.0, float(steps)])
        steps += 1
        for worker, jobs in running.items():
            busy += bool(jobs)
            for job in jobs:
                job[0] += speeds[worker] / (len(jobs) if serial else 1)
            for job in [job for job in jobs if job[0] >= 40]:
                jobs.remove(job)
                ledger.success(worker, 40 / (steps - job[1]), SLOTS)
                ledger.end(worker)
                answers[worker] += 1
    return answers, busy / (steps * len(speeds))


@pytest.mark.parametrize("serial", [True, False], ids=["serial", "batching"])
@pytest.mark.parametrize("seed", range(5))
def test_equal_workers_share_a_closed_loop_and_none_idles(serial: bool, seed: int) -> None:
    answers, busy = closed_loop({A: 1.0, B: 1.0}, serial=serial, requests=200, seed=seed)
    assert max(answers.values()) / min(answers.values()) <= 1.3, answers
    assert busy >= 0.97


@pytest.mark.parametrize("seed", range(5))
def test_a_worker_that_is_four_times_faster_gets_most_of_the_work(seed: int) -> None:
    answers, _ = closed_loop({A: 1.0, B: 4.0}, serial=True, requests=300, seed=seed)
    assert answers[B] / answers[A] >= 2.5, answers
