"""The job queue: slots, caps, order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.protocol.jobqueue import OPEN_NETWORK_CAPS, Caps, JobQueue
from llama_gossip.protocol.messages import NodeId

A, B = NodeId(b"a" * 32), NodeId(b"b" * 32)
CAPS = Caps()


def test_priority_goes_before_arrival() -> None:
    queue = JobQueue(slots=1)
    for job, priority in [(1, 5), (2, 9), (3, 5), (4, 0)]:
        queue.add(job, A, priority, CAPS)
    assert queue.waiting() == (2, 1, 3, 4)
    assert [queue.position(job) for job in (2, 1, 3, 4)] == [0, 1, 2, 3]
    assert queue.start_next() == 2
    assert queue.start_next() is None
    assert queue.free(2)
    assert queue.start_next() == 1


def test_a_slot_is_freed_exactly_once() -> None:
    queue = JobQueue(slots=1)
    queue.add(1, A, 5, CAPS)
    queue.start_next()
    assert queue.free(1)
    assert not queue.free(1)
    assert queue.running == 0


def test_one_key_may_take_every_idle_slot_and_queue_64() -> None:
    queue = JobQueue(slots=4)
    for job in range(68):
        assert queue.admits(A, CAPS)
        queue.add(job, A, 5, CAPS)
        queue.start_next()
    assert (queue.running, queue.queued) == (4, 64)
    assert not queue.admits(A, CAPS)
    assert queue.admits(B, CAPS)


def test_the_whole_queue_is_bounded() -> None:
    queue = JobQueue(slots=0)
    for job in range(256):
        queue.add(job, NodeId(bytes([job]) * 32), 5, CAPS)
    assert not queue.admits(A, CAPS)


def test_in_an_open_network_a_key_over_its_share_does_not_block_the_next_one() -> None:
    queue = JobQueue(slots=4)
    for job in range(4):
        queue.add(job, A, 5, OPEN_NETWORK_CAPS)
    queue.add(9, B, 5, OPEN_NETWORK_CAPS)
    assert [queue.start_next() for _ in range(4)] == [0, 1, 9, None]


def test_without_a_queue_an_idle_slot_still_takes_a_job() -> None:
    caps = Caps(max_queued=0, max_queued_per_key=0)
    queue = JobQueue(slots=1)
    assert queue.admits(A, caps)
    queue.add(1, A, 5, caps)
    queue.start_next()
    assert not queue.admits(A, caps)


def test_fewer_slots_let_what_runs_finish() -> None:
    queue = JobQueue(slots=2)
    for job in range(3):
        queue.add(job, A, 5, CAPS)
    queue.start_next()
    queue.start_next()
    queue.resize(1)
    queue.free(0)
    assert queue.start_next() is None
    queue.free(1)
    assert queue.start_next() == 2


@given(st.lists(st.tuples(st.sampled_from(["add", "start", "free", "withdraw"]), st.integers(0, 9))))
def test_running_never_exceeds_the_slots_and_no_job_is_in_two_places(steps: list[tuple[str, int]]) -> None:
    queue, known = JobQueue(slots=3), set[int]()
    for step, job in steps:
        match step:
            case "add" if job not in known:
                known.add(job)
                queue.add(job, A, job, CAPS)
            case "start":
                queue.start_next()
            case "free" if queue.free(job):
                known.remove(job)
            case "withdraw" if queue.withdraw(job):
                known.remove(job)
            case _:
                pass
        assert 0 <= queue.running <= 3
        waiting = set(queue.waiting())
        assert waiting | {j for j in known if queue.runs(j)} == known
        assert not any(queue.runs(j) for j in waiting)
