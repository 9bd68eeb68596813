"""Health: a node that nobody hears finds out, and does something about it; one that is heard leaves it be."""

from __future__ import annotations

import itertools
import random

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.limits import MAX_HEARD
from llama_gossip.protocol.mute import MAX_UNCONFIRMED, Mute
from llama_gossip.protocol.timers import Timers
from tests.protocol.fakewire import FakeNet
from tests.protocol.hand import Clocked
from tests.protocol.scripted_model import ScriptedModel
from tests.protocol.test_presence import hear, node

FEW = MAX_HEARD  # peers: each Announce names all of them

# --- the verdict --------------------------------------------------------------------------------------


def test_a_node_that_nobody_names_for_a_minute_is_mute() -> None:
    mute = Mute(Timers())
    mute.sent(7, 0)
    for at in (10_000, 30_000, 50_000, 60_000):
        mute.heard(None, at)
    assert not mute.verdict(59_999, FEW)
    assert mute.verdict(60_000, FEW)
    mute.heard(7, 60_001)
    assert not mute.verdict(60_002, FEW)


def test_only_an_old_seq_named_is_mute_all_the_same() -> None:
    mute = Mute(Timers())
    mute.sent(7, 0)
    mute.sent(8, 20_000)
    for at in (70_000, 75_000, 78_000, 79_000):
        mute.heard(7, at)
    assert not mute.verdict(79_999, FEW)
    assert mute.verdict(80_000, FEW)
    mute.heard(8, 80_000)
    assert not mute.verdict(80_000, FEW)


def test_a_seq_of_the_boot_before_confirms_nothing() -> None:
    mute = Mute(Timers())
    mute.sent(1, 0)
    for at in (10_000, 30_000, 50_000, 60_000):
        mute.heard(900, at)
    assert mute.verdict(60_000, FEW)


def test_a_crowd_that_does_not_name_this_node_does_not_hide_the_one_that_did() -> None:
    """4 096 workers send 16 000 Announces a minute, three of them name each node."""
    mute = Mute(Timers())
    mute.sent(7, 0)
    mute.heard(7, 30_000)
    for at in range(30_000, 60_000, 5):
        mute.heard(None, at)
    assert not mute.verdict(60_000, 4_096)
    mute.sent(8, 60_000)
    for at in range(60_000, 150_000, 4):
        mute.heard(None, at)
    assert mute.verdict(150_000, 4_096)


def test_without_four_announces_of_the_last_minute_there_is_no_verdict() -> None:
    mute = Mute(Timers())
    mute.sent(7, 0)
    mute.heard(None, 1_000)
    for at in (61_000, 62_000, 63_000):
        mute.heard(None, at)
    assert not mute.verdict(64_000, FEW)


def test_announces_that_would_hardly_name_this_node_prove_little() -> None:
    mute = Mute(Timers())
    mute.sent(7, 0)
    for at in range(10_000, 60_000, 1_000):
        mute.heard(None, at)
    assert not mute.verdict(60_000, 100)
    for at in range(60_000, 60_500):
        mute.heard(None, at)
    assert mute.verdict(60_500, 100)


def test_own_announces_that_nobody_confirms_do_not_pile_up() -> None:
    mute = Mute(Timers())
    for seq in range(2 * MAX_UNCONFIRMED):
        mute.sent(seq, 500 * seq)
    assert len(mute._unconfirmed) == MAX_UNCONFIRMED


def verdicts(seed: int, *, workers: int, clients: int, minutes: int, dead: bool = False) -> tuple[int, int]:
    """(Announces of node 0, a worker, at which it was taken for mute; the first of them in ms). Everybody
    announces as the protocol says, and names three of the others; dead: nobody hears node 0."""
    rng, timers, count = random.Random(seed), Timers(), workers + clients
    mute, newest, taken, first_ms = Mute(timers), [0] * count, 0, 0
    due = [(rng.random() * timers.announce_ms, n) for n in range(count)]
    while (at := min(due)[0]) < minutes * 60_000:
        number = min(due)[1]
        newest[number] += 1
        others = rng.sample([n for n in range(count) if n != number], min(MAX_HEARD, count - 1))
        if number == 0:
            mute.sent(newest[0], round(at))
        else:
            named = newest[0] if 0 in others and not dead else None
            mute.heard(named, round(at))
        if mute.verdict(round(at), count - 1):
            taken, first_ms = taken + 1, first_ms or round(at)
        period_ms = timers.announce_ms if number < workers else timers.client_announce_ms
        due[number] = at + period_ms * (1 + timers.announce_spread * (2 * rng.random() - 1)), number
    return taken, first_ms


@pytest.mark.parametrize(("workers", "clients"), [(2, 0), (4, 0), (5, 0), (10, 0), (1, 5), (1, 20), (4, 20)])
def test_a_node_that_is_heard_is_never_taken_for_mute(workers: int, clients: int) -> None:
    for seed in range(3):
        print(f"seed {seed}")
        assert verdicts(seed, workers=workers, clients=clients, minutes=240) == (0, 0)


@pytest.mark.parametrize(
    ("workers", "clients", "within_s"), [(2, 0, 90), (4, 0, 90), (10, 0, 120), (1, 5, 360), (1, 20, 360)]
)
def test_a_node_that_nobody_hears_finds_out_in_minutes(workers: int, clients: int, within_s: int) -> None:
    for seed in range(5):
        taken, first_ms = verdicts(seed, workers=workers, clients=clients, minutes=10, dead=True)
        print(f"seed {seed}: after {first_ms / 1_000:.0f} s")
        assert taken
        assert 60_000 <= first_ms <= 1_000 * within_s


# --- what is done about it ------------------------------------------------------------------------------


def joined() -> Clocked:
    worker = node(ScriptedModel())
    worker.feed(ev.Joined(()))
    return worker


def minutes_unheard(
    worker: Clocked, minutes: int, *, peers: int = 4, every_ms: int = 10_000, skew_ms: int = 0
) -> list[tuple[int, int]]:
    """(when, how often in a row) the node rebuilds its gossip while its peers never name it."""
    rebuilt = []
    for _ in range(minutes * 60_000 // every_ms):
        worker.wait(every_ms)
        for number in range(peers):
            effects = hear(worker, f"peer {number}", seq=worker.now_ms, late_ms=skew_ms, ttl_ms=180_000)
            asked = [effect for effect in effects if isinstance(effect, ef.RebuildGossip)]
            rebuilt += [(worker.now_ms, effect.times) for effect in asked]
    return rebuilt


def test_the_core_hears_its_name_in_the_announces_of_others() -> None:
    worker = joined()
    worker.wait(61_000)
    own = worker.core._desk.seq
    for number in range(3):
        assert not any(isinstance(e, ef.RebuildGossip) for e in hear(worker, f"peer {number}"))
        assert not worker.core.is_mute(ev.Now(worker.now_ms, 0))
    hear(worker, "peer 3", heard=((worker.node_id[:8], own),))
    assert not worker.core.is_mute(ev.Now(worker.now_ms, 0))
    assert minutes_unheard(worker, 3)


def test_the_gossip_of_a_mute_node_is_rebuilt_and_ever_more_seldom_while_that_does_not_help() -> None:
    worker = joined()
    start_ms = worker.now_ms
    rebuilt = minutes_unheard(worker, 60)
    assert [times for _, times in rebuilt] == list(range(1, len(rebuilt) + 1))
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(rebuilt)]
    assert 60_000 <= rebuilt[0][0] - start_ms <= 120_000
    assert gaps == sorted(gaps)
    assert all(gap >= least for gap, least in zip(gaps, (60_000, 120_000, 240_000, 480_000), strict=False))
    assert 600_000 <= gaps[-1] <= 700_000
    assert worker.core.counters()["gossip_rebuilds"] == len(rebuilt)


def test_in_a_crowd_each_rebuild_gets_the_time_that_chance_needs_to_show_it() -> None:
    """40 clients, one Announce a minute each: it takes 180 of them to say that nobody hears this node."""
    worker = joined()
    start_ms = worker.now_ms
    first, second, *_ = [at for at, _ in minutes_unheard(worker, 15, peers=40, every_ms=60_000)]
    assert min(first - start_ms, second - first) >= 240_000


def test_once_somebody_names_the_node_again_the_next_silence_is_a_new_one() -> None:
    worker = joined()
    minutes_unheard(worker, 10)
    hear(worker, "peer 0", seq=worker.now_ms + 1, heard=((worker.node_id[:8], worker.core._desk.seq),))
    rebuilt = minutes_unheard(worker, 10)
    assert rebuilt[0][1] == 1


def test_a_clock_that_makes_the_others_drop_everything_is_no_reason_to_rebuild() -> None:
    """Its own clock is 40 s ahead: it hears them, they drop what comes from the future."""
    worker = joined()
    assert minutes_unheard(worker, 20, skew_ms=40_000) == []
    assert worker.core.skew_ms() == -40_000


def test_nothing_is_rebuilt_before_joining_or_after_leaving() -> None:
    worker = node(ScriptedModel())
    assert minutes_unheard(worker, 5) == []
    worker.feed(ev.Joined(()))
    worker.wait(61_000)
    worker.feed(ev.Goodbye("off"))
    assert minutes_unheard(worker, 5) == []


def test_nodes_that_hear_each_other_rebuild_nothing_for_an_hour() -> None:
    net = FakeNet(11)
    nodes = [net.add(f"worker {n}", ScriptedModel()) for n in range(4)] + [net.add("client")]
    net.join(*nodes)
    net.run_for(3_600_000)
    assert not any(one.effects(ef.RebuildGossip) for one in nodes)
