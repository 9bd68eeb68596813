"""Whose turn it is: classes, ageing, the owner, fairness between keys, and the place that is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.protocol.jobqueue import OPEN_NETWORK_CAPS, TOP_PRIORITY, Caps, JobQueue
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.timers import Timers

AGEING_MS = Timers().ageing_ms
CAPS = Caps()
KEYS = [NodeId(bytes([number]) * 32) for number in range(10)]
A, B, C = KEYS[:3]
FLOODER, HONEST = KEYS[0], KEYS[1:]


def filled(*jobs: tuple[int, NodeId, int], slots: int = 1) -> JobQueue:
    queue = JobQueue(slots=slots)
    for job, requester, priority in jobs:
        queue.add(job, requester, priority, CAPS, 0)
    return queue


def served(queue: JobQueue, now_ms: int = 0) -> list[int]:
    """Every job of a single slot, one after the other."""
    order = []
    while (job := queue.start_next(now_ms)) is not None:
        queue.free(job)
        order.append(job)
    return order


# --- the order -----------------------------------------------------------------------------------


def test_the_class_goes_first_and_a_key_of_its_own_takes_no_turn_before_it() -> None:
    queue = filled((1, A, 5), (2, A, 9), (3, B, 6), (4, A, 0))
    assert served(queue) == [2, 3, 1, 4]


def test_in_one_class_the_owner_goes_first() -> None:
    queue = filled((1, A, 5), (2, B, 6))
    queue.add(3, C, 5, CAPS, 0, owner=True)
    queue.add(4, C, 5, CAPS, 0, owner=True)
    assert served(queue) == [2, 3, 4, 1]


def test_keys_take_turns_however_much_one_of_them_wants() -> None:
    queue = filled(*((job, A, 5) for job in range(5)), (10, B, 5), (11, B, 5), (20, C, 5))
    assert served(queue) == [0, 10, 20, 1, 11, 2, 3, 4]


def test_the_key_that_was_served_longest_ago_goes_first() -> None:
    queue = filled((1, A, 5), (2, B, 5), (3, A, 5), (4, B, 5))
    assert [queue.start_next(0), queue.free(1)] == [1, True]
    queue.add(5, C, 5, CAPS, 0)
    assert served(queue) == [2, 3, 5, 4], "B waits since before A's turn, A's turn lies before C's coming"


def test_the_key_that_runs_least_goes_first() -> None:
    queue = filled((1, A, 5), (2, A, 5), (3, A, 5), slots=2)
    assert [queue.start_next(0), queue.start_next(0)] == [1, 2]
    queue.add(4, B, 5, CAPS, 0)
    queue.add(5, B, 5, CAPS, 0)
    queue.free(1)
    assert queue.start_next(0) == 4
    queue.free(2)
    assert queue.start_next(0) == 3, "A holds nothing now, B one"


def test_ageing_overtakes() -> None:
    queue = filled((1, A, 3))
    for now_ms, first in [(0, 2), (AGEING_MS - 1, 2), (AGEING_MS, 1)]:
        queue.add(2, B, 4, CAPS, now_ms)
        assert queue.in_order(now_ms)[0] == first
        queue.withdraw(2)


def test_a_backlog_does_not_age_while_its_key_is_served() -> None:
    queue = filled(*((job, FLOODER, 5) for job in range(30)))
    for now_ms in range(0, 100_000, 5_000):
        job = queue.start_next(now_ms)
        assert job is not None
        queue.free(job)
    queue.add(99, B, 5, CAPS, 100_000)
    assert queue.in_order(100_000).index(99) <= 1


def test_within_a_key_the_oldest_wait_wins_in_the_end() -> None:
    queue = filled((0, A, 0))
    for second in range(200):
        queue.add(1 + second, A, 9, CAPS, 1_000 * second)
        started = queue.start_next(1_000 * second)
        assert started is not None
        queue.free(started)
        if started == 0:
            assert second == 90
            return
    pytest.fail("the job of class 0 was never begun")


def test_a_key_that_comes_back_has_no_right_from_before() -> None:
    queue = filled((1, A, 5))
    assert served(queue) == [1]
    queue.add(2, B, 5, CAPS, 1_000)
    queue.add(3, A, 5, CAPS, 1_000)
    assert served(queue, 1_000) == [2, 3]


# --- what is promised of it ------------------------------------------------------------------------


def waits_s(arrivals: Iterable[tuple[int, int, NodeId, int]], *, slots: int, job_s: int) -> dict[int, int]:
    """Seconds that each job waits; arrivals: (second, job, key, class), jobs last `job_s` seconds."""
    queue = JobQueue(slots=slots)
    todo = sorted(arrivals)
    ends: list[tuple[int, int]] = []
    came = {job: second for second, job, _, _ in todo}
    waits: dict[int, int] = {}
    second = 0
    while todo or queue.queued:
        for end, job in [entry for entry in ends if entry[0] <= second]:
            ends.remove((end, job))
            assert queue.free(job)
        while todo and todo[0][0] <= second:
            _, job, requester, priority = todo.pop(0)
            queue.add(job, requester, priority, CAPS, 1_000 * second)
        while (started := queue.start_next(1_000 * second)) is not None:
            waits[started] = second - came[started]
            ends.append((second + job_s, started))
        second += 1
    return waits


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, TOP_PRIORITY)), min_size=1, max_size=120
)


@settings(deadline=None)
@given(ARRIVALS, st.integers(1, 3), st.integers(1, 4))
def test_nobody_starves(drawn: list[tuple[int, int, int]], slots: int, job_s: int) -> None:
    """Nine classes are made good by ageing; from then on only who waits too, or is more urgent still, comes
    first: each of these once, and keys in turn."""
    jobs = [(second, job, KEYS[key], priority) for job, (second, key, priority) in enumerate(drawn)]
    waits = waits_s(jobs, slots=slots, job_s=job_s)
    assert waits.keys() == {job for _, job, _, _ in jobs}
    came = {job: second for second, job, _, _ in jobs}
    ageing_s = (TOP_PRIORITY + 1) * AGEING_MS // 1_000
    for job, wait_s in waits.items():
        peers = sum(other <= came[job] + ageing_s for other in came.values())
        assert wait_s <= ageing_s * len(KEYS) + (peers + len(KEYS)) * job_s // slots + job_s


def test_an_endless_stream_of_the_most_urgent_delays_the_least_urgent_by_a_hundred_seconds_at_most() -> None:
    stream = [(second, second, KEYS[second % 9], 9) for second in range(400)]
    waits = waits_s([*stream, (5, 1_000, KEYS[9], 0)], slots=1, job_s=1)
    assert 80 <= waits[1_000] <= 100


@settings(deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=40),
)
def test_one_flooding_key_delays_nobody_by_more_than_its_share(
    slots: int, asked: list[tuple[int, int]]
) -> None:
    """While an honest question waits, the flood gets one job for each turn of the same key, and one more."""
    honest = [(second, job, KEYS[key], 5) for job, (second, key) in enumerate(asked)]
    flood = [(second, 1_000 + 64 * second + n, FLOODER, 5) for second in range(4) for n in range(16)]
    came = {job: second for second, job, _, _ in [*honest, *flood]}
    key_of = {job: key for _, job, key, _ in [*honest, *flood]}
    starts = [
        (came[job] + wait_s, job) for job, wait_s in waits_s([*honest, *flood], slots=slots, job_s=3).items()
    ]
    for _, job, key, _ in honest:
        meanwhile = starts[: 1 + next(n for n, (_, other) in enumerate(starts) if other == job)]
        meanwhile = [(second, other) for second, other in meanwhile if second >= came[job]]
        turns = Counter(key_of[other] for _, other in meanwhile)
        assert turns[FLOODER] <= turns[key] + 1


def test_nine_honest_keys_are_served_in_turn_beside_a_flood() -> None:
    queue = filled(*((job, FLOODER, 5) for job in range(64)))
    for number, requester in enumerate(HONEST):
        queue.add(100 + number, requester, 5, CAPS, 1)
    assert served(queue, 1)[:10] == [0, *range(100, 109)]


# --- the place that is told -------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 60)), min_size=1, max_size=60),
    st.integers(0, 100),
)
def test_the_place_that_is_told_is_the_number_that_start_before(
    drawn: list[tuple[int, int, int]], later_s: int
) -> None:
    """With one slot, in one moment: nothing else comes, and each start puts its key behind."""
    queue, now_s = JobQueue(slots=len(drawn)), 0
    for job, (key, priority, wait_s) in enumerate(drawn):
        now_s += wait_s
        queue.add(job, KEYS[key], priority, CAPS, 1_000 * now_s)
    now_ms = 1_000 * (now_s + later_s)
    places = {job: queue.position(job, now_ms) for job in range(len(drawn))}
    order = [queue.start_next(now_ms) for _ in drawn]
    assert [places[job] for job in order if job is not None] == list(range(len(drawn)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40))
def test_in_one_class_no_newcomer_moves_the_first_job_of_a_key_back(steps: list[tuple[int, bool]]) -> None:
    """Places fall: the requester's patience is renewed by a lower one, and only by that."""
    queue = JobQueue(slots=2)
    queue.add(-1, KEYS[9], 5, CAPS, 0)
    queue.add(-2, KEYS[8], 5, CAPS, 0)
    assert [queue.start_next(0), queue.start_next(0)] == [-1, -2]
    queue.add(1_000, KEYS[7], 5, CAPS, 0)
    place = queue.position(1_000, 0)
    for job, (key, frees) in enumerate(steps):
        queue.add(job, KEYS[key], 5, CAPS, 0)
        assert queue.position(1_000, 0) <= place
        place = queue.position(1_000, 0)
        if frees:
            running = next(iter(queue._running))
            queue.free(running)
            if queue.start_next(0) == 1_000:
                return
            assert queue.position(1_000, 0) <= place


def test_a_key_at_its_cap_is_passed_over_and_keeps_its_place() -> None:
    queue = JobQueue(slots=3)
    for job in range(4):
        queue.add(job, A, 5, OPEN_NETWORK_CAPS, 0)
    assert [queue.start_next(0) for _ in range(3)] == [0, 1, None]
    queue.add(9, B, 5, CAPS, 0)
    assert queue.start_next(0) == 9
    queue.free(0)
    assert queue.start_next(0) == 2
