"""The job queue: slots, caps, and what may be in it. Whose turn it is: test_jobqueue_order.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.protocol.jobqueue import MAX_QUEUED, OPEN_NETWORK_CAPS, Caps, JobQueue
from llama_gossip.protocol.messages import NodeId

A, B = NodeId(b"a" * 32), NodeId(b"b" * 32)
CAPS = Caps()


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def test_a_slot_is_freed_exactly_once() -> None:
    queue = JobQueue(slots=1)
    queue.add(1, A, 5, CAPS, 0)
    queue.start_next(0)
    assert queue.free(1)
    assert not queue.free(1)
    assert queue.running == 0


def test_one_key_may_take_every_idle_slot_and_queue_64() -> None:
    queue = JobQueue(slots=4)
    for job in range(68):
        assert queue.admits(A, CAPS)
        queue.add(job, A, 5, CAPS, 0)
        queue.start_next(0)
    assert (queue.running, queue.queued) == (4, 64)
    assert not queue.admits(A, CAPS)
    assert queue.admits(B, CAPS)


def test_the_whole_queue_is_bounded() -> None:
    queue = JobQueue(slots=0)
    for job in range(MAX_QUEUED):
        queue.add(job, node(job), 5, CAPS, 0)
    assert not queue.admits(A, CAPS)


def test_in_an_open_network_unknown_keys_leave_a_quarter_of_the_places_to_the_others() -> None:
    queue, job = JobQueue(slots=0), 0
    while queue.admits(node(job // 8), OPEN_NETWORK_CAPS):
        queue.add(job, node(job // 8), 5, OPEN_NETWORK_CAPS, 0)
        job += 1
    assert (queue.queued, queue.admits(A, OPEN_NETWORK_CAPS)) == (MAX_QUEUED * 3 // 4, False)
    assert queue.admits(B, CAPS), "the owner and the allow-listed"


def test_in_an_open_network_a_key_over_its_share_does_not_block_the_next_one() -> None:
    queue = JobQueue(slots=4)
    for job in range(4):
        queue.add(job, A, 5, OPEN_NETWORK_CAPS, 0)
    queue.start_next(0)
    queue.start_next(0)
    queue.add(9, B, 0, OPEN_NETWORK_CAPS, 0)
    assert [queue.start_next(0) for _ in range(2)] == [9, None], "less urgent, but it may run"


def test_without_a_queue_an_idle_slot_still_takes_a_job() -> None:
    caps = Caps(max_queued=0, max_queued_per_key=0)
    queue = JobQueue(slots=1)
    assert queue.admits(A, caps)
    queue.add(1, A, 5, caps, 0)
    queue.start_next(0)
    assert not queue.admits(A, caps)


def test_fewer_slots_let_what_runs_finish() -> None:
    queue = JobQueue(slots=2)
    for job in range(3):
        queue.add(job, A, 5, CAPS, 0)
    queue.start_next(0)
    queue.start_next(0)
    queue.resize(1)
    queue.free(0)
    assert queue.start_next(0) is None
    queue.free(1)
    assert queue.start_next(0) == 2


STEPS = st.tuples(st.sampled_from(["add", "start", "free", "withdraw"]), st.integers(0, 9), st.integers(0, 9))


@given(st.lists(STEPS))
def test_running_never_exceeds_the_slots_and_no_job_is_in_two_places(
    steps: list[tuple[str, int, int]],
) -> None:
    queue, known, now_ms = JobQueue(slots=3), set[int](), 0
    for step, job, wait_s in steps:
        now_ms += 1_000 * wait_s
        match step:
            case "add" if job not in known:
                known.add(job)
                queue.add(job, node(job % 3), job, CAPS, now_ms)
            case "start":
                queue.start_next(now_ms)
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
        assert set(queue.in_order(now_ms)) == waiting
        assert len(queue._keys) <= len(known), "nothing is kept of a key that has nothing here"
