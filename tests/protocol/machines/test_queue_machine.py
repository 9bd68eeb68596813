"""The job queue against a naive model: sets of jobs, and caps counted anew each time.

The order between keys is not modelled. What every order owes is: I7, the caps, no idle slot that somebody may
use, and that whoever waits is served in the end.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llama_gossip.protocol.jobqueue import Caps, JobQueue
from llama_gossip.protocol.messages import NodeId
from tests.protocol.machines.parts import picked
from tests.protocol.machines.profile import MACHINES, PATIENCE

KEYS = [NodeId(bytes([n]) * 32) for n in range(4)]
CAPS = (Caps(), Caps(max_queued=4, max_queued_per_key=2, max_running_per_key=1), Caps(max_queued=0))
pytestmark = PATIENCE

PICK = st.integers(0, 1_000)


@dataclass(frozen=True)
class Waiting:
    requester: NodeId
    priority: int
    caps: Caps
    arrived_ms: int


class QueueMachine(RuleBasedStateMachine):
    @initialize(slots=st.integers(0, 3))
    def begin(self, slots: int) -> None:
        self.queue = JobQueue(slots=slots)
        self.slots, self.now_ms, self.jobs = slots, 0, 0
        self.waiting: dict[int, Waiting] = {}
        self.running: dict[int, Waiting] = {}
        self.caps = {key: CAPS[n % len(CAPS)] for n, key in enumerate(KEYS)}

    # --- the model ---

    def may_run(self, key: NodeId, caps: Caps) -> bool:
        of_key = sum(entry.requester == key for entry in self.running.values())
        within = caps.max_running_per_key is None or of_key < caps.max_running_per_key
        return len(self.running) < self.slots and within

    def admits(self, key: NodeId, caps: Caps) -> bool:
        if not self.waiting and self.may_run(key, caps):
            return True
        of_key = sum(entry.requester == key for entry in self.waiting.values())
        return len(self.waiting) < caps.max_queued and of_key < caps.max_queued_per_key

    # --- what happens ---

    @rule(pick=PICK, priority=st.integers(0, 9))
    def a_job_comes(self, pick: int, priority: int) -> None:
        key = picked(KEYS, pick)
        caps = self.caps[key]
        admitted = self.queue.admits(key, caps)
        assert admitted == self.admits(key, caps)
        if admitted:
            self.jobs += 1
            self.queue.add(self.jobs, key, priority, caps, self.now_ms, owner=key == KEYS[0])
            self.waiting[self.jobs] = Waiting(key, priority, caps, self.now_ms)

    @rule()
    def the_next_starts(self) -> None:
        self.start()

    def start(self) -> int | None:
        first = next((job for job in self.queue.in_order(self.now_ms) if self.may(job)), None)
        job = self.queue.start_next(self.now_ms)
        assert job == first, "the first of the order that may run, and nobody else"
        if job is not None:
            self.running[job] = self.waiting.pop(job)
        return job

    def may(self, job: int) -> bool:
        entry = self.waiting[job]
        return self.may_run(entry.requester, entry.caps)

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def a_job_goes(self, pick: int) -> None:
        """Waiting, running or gone already: each answers as it is."""
        job = 1 + pick % self.jobs
        assert self.queue.withdraw(job) == (self.waiting.pop(job, None) is not None)

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def an_engine_ends_a_job(self, pick: int) -> None:
        job = picked(list(self.running), pick) if self.running and pick % 4 else 1 + pick % self.jobs
        assert self.queue.free(job) == (self.running.pop(job, None) is not None)

    @rule(slots=st.integers(0, 3))
    def the_slots_change(self, slots: int) -> None:
        self.slots = slots
        self.queue.resize(slots)

    @rule(ms=st.sampled_from([0, 1, 9_999, 10_000, 65_000]))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    # --- what always holds ---

    @invariant()
    def it_knows_exactly_these_jobs(self) -> None:
        if not hasattr(self, "queue"):
            return
        queue = self.queue
        assert (queue.queued, queue.running) == (len(self.waiting), len(self.running))
        assert queue.waiting() == tuple(self.waiting), "oldest first"
        order = queue.in_order(self.now_ms)
        assert sorted(order) == sorted(self.waiting)
        assert [queue.position(job, self.now_ms) for job in order] == list(range(len(order)))
        assert all(queue.runs(job) for job in self.running)
        assert not any(queue.runs(job) for job in self.waiting)

    @invariant()
    def of_one_key_the_more_urgent_and_the_older_goes_first(self) -> None:
        if not hasattr(self, "queue"):
            return
        order = self.queue.in_order(self.now_ms)
        for key in KEYS:
            own = [job for job in order if self.waiting[job].requester == key]
            for first, second in itertools.pairwise(own):
                ahead, behind = self.waiting[first], self.waiting[second]
                assert ahead.priority >= behind.priority or ahead.arrived_ms < behind.arrived_ms
                assert (
                    first < second
                    or ahead.priority > behind.priority
                    or (ahead.arrived_ms < behind.arrived_ms)
                )

    def teardown(self) -> None:
        """Nobody waits for ever: slots that come free serve all who wait, and a late urgent one too."""
        if not hasattr(self, "queue"):
            return
        self.the_slots_change(2)
        for _ in range(2 * self.jobs + 2):
            if self.start() is None and self.running:
                self.an_engine_ends_a_job(4 * next(iter(self.running)) + 1)
            self.it_knows_exactly_these_jobs()
        while self.running:
            assert self.queue.free(self.running.popitem()[0])
            while self.start() is not None:
                pass
        assert not self.waiting
        assert self.queue._keys == {}


TestQueue = QueueMachine.TestCase
TestQueue.settings = MACHINES
