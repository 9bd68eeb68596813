"""The worker under any order of streams, Assigns good and bad, engine events, ends, drains and clock moves.

Three requesters and the engine are played by the test; the engine keeps its own law (after a start exactly
one end) and no other. The oracles are the simulation's: I1, I4, I5, I7, I8, I10, I12, I15, I16.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import Cancel, Error, NodeState, Phase, Progress, Reject, RejectReason
from llama_gossip.protocol.streams import StreamCode
from llama_gossip.simulation.answers import WEIGHTS, WholeAnswer, answer_to
from llama_gossip.simulation.history import Key, Work
from llama_gossip.simulation.oracles import Oracles
from tests.protocol.fakewire import WALL_MS
from tests.protocol.machines.one_core import OneCore
from tests.protocol.machines.parts import Clocked, announce, capacity, facts, key, new_core, picked, signed
from tests.protocol.machines.profile import MACHINES, PATIENCE
from tests.protocol.machines.requester_hand import FLAWS, UNBORNE, Line, assign_to, request_id_of

REQUESTERS = 3
REQUESTS = 3  # of each
TOMBSTONE_MS = 120_000
STALLED_MS = 30_000
QUIET_STREAM_MS = 10_100  # for a first item; for the end behind a last frame
QUIET_MS = 260_000  # every timer of a job and two lives of a tombstone
pytestmark = PATIENCE

PICK = st.integers(0, 1_000)
DONE_BEFORE = 30  # steps, before the node is told to leave


@dataclass
class Run:
    """A job of the engine."""

    key: Key
    answer: WholeAnswer
    index: int
    started: bool = False
    cancelled: bool = False


class WorkerMachine(OneCore):
    @initialize(slots=st.integers(1, 2), seed=st.integers(0, 3))
    def begin(self, slots: int, seed: int) -> None:
        self.oracles = Oracles(failover=True)
        self.own = key("worker")
        self.side = Clocked(new_core(self.own, "worker", WALL_MS, seed), self.oracles)
        self.slots, self.draining, self.steps = 0, False, 0
        self.requesters = [key(f"requester {n}") for n in range(REQUESTERS)]
        self.lines: dict[int, Line] = {}
        self.runs: dict[int, Run] = {}
        self.attempts: dict[Key, int] = {}  # the newest that was sent and could be taken
        self.taken: dict[Key, int] = {}  # the newest that was accepted
        self.ended_ms: dict[Key, int] = {}  # when the stream of that was over
        self.stepped_ms = self.side.now_ms
        self.event: ev.Event = ev.Tick()
        self.feed(ev.Joined(()))
        self.change(slots)

    # --- the driver's part ---

    def feed(self, event: ev.Event) -> list[ef.Effect]:
        self.event = event
        effects = self.side.handle(event)
        for effect in effects:
            self.perform(effect)
        return effects

    def perform(self, effect: ef.Effect) -> None:
        match effect:
            case ef.WriteStream(stream):
                self.lines[stream].wrote(effect)
                self.check_progress(self.lines[stream])
            case ef.FinishStream(stream):
                assert not self.lines[stream].ended, "finishes its side twice"
                self.lines[stream].ended = True
            case ef.ResetStream(stream, code):
                assert not self.lines[stream].over, "resets what is over"
                self.lines[stream].reset = code
                self.over(self.lines[stream])
            case ef.JobAccepted():
                self.accepted(effect)
            case ef.StartJob():
                self.start(effect)
            case ef.CancelJob(job):
                assert job in self.runs, "stops what does not run"
                self.runs[job].cancelled = True
                self.oracles.work_cancelled(self.own.node_id, 1, job, self.side.now_ms)
            case _:
                pass

    def over(self, line: Line) -> None:
        line.over = True
        key_ = (line.remote.node_id, line.assign.request_id)
        if line.job is not None and self.taken.get(key_) == line.assign.attempt:
            self.ended_ms[key_] = self.side.now_ms

    def accepted(self, effect: ef.JobAccepted) -> None:
        assert isinstance(self.event, ev.StreamData)
        line = self.lines[self.event.stream]
        assert (effect.requester, effect.request_id) == (line.remote.node_id, line.assign.request_id), "I10"
        assert line.job is None, "one stream, one job"
        line.job = effect.job
        self.taken[effect.requester, effect.request_id] = line.assign.attempt
        self.ended_ms.pop((effect.requester, effect.request_id), None)

    def start(self, effect: ef.StartJob) -> None:
        assert effect.job not in self.runs, "I10: begun twice"
        answer = answer_to(effect.prompt, effect.config.seed, effect.config.max_tokens)
        run_key = (effect.requester, effect.request_id)
        self.runs[effect.job] = Run(run_key, answer, effect.resume.from_index if effect.resume else 0)
        work = Work(self.own.node_id, 0, 1, effect.job, run_key, effect.attempt, self.side.now_ms)
        now_ms = self.side.now_ms
        self.oracles.work_started(work, WALL_MS, now_ms, running=len(self.runs), slots=self.slots)
        self.stepped_ms = max(self.stepped_ms, now_ms)

    def check_progress(self, line: Line) -> None:
        """I5: a model that has not stepped for long is not kept alive by its event loop."""
        if line.job in self.runs and isinstance(line.frames[-1], Progress):
            assert self.side.now_ms - self.stepped_ms < STALLED_MS, "progress of an engine that hangs"

    # --- this node ---

    def change(self, slots: int | None) -> None:
        self.slots = slots or 0
        self.feed(ev.EngineChanged(None if slots is None else capacity(slots)))

    @rule(slots=st.sampled_from([1, 1, 2, 3, None]))
    def the_engine_changes(self, slots: int | None) -> None:
        """None: it is taken away; what it had ends at once."""
        self.change(slots)
        for job in list(self.runs) if slots is None else ():
            self.end_run(job, ev.EngineFailed(job, "engine_lost", "taken away", retryable=True))

    @precondition(lambda self: self.steps > DONE_BEFORE)
    @rule()
    def it_is_told_to_leave(self) -> None:
        self.draining = True
        self.feed(ev.Drain("update"))

    # --- streams and Assigns ---

    def open_lines(self, *, assigned: bool) -> list[int]:
        return [n for n, line in self.lines.items() if not line.over and line.assigned is assigned]

    @rule(
        who=st.integers(0, REQUESTERS - 1),
        number=st.integers(0, REQUESTS - 1),
        newer=st.sampled_from([1, 1, 1, 2, 0, -1]),
        tokens=st.integers(1, 8),
        resumed=st.sampled_from([0, 0, 0, 1, 3]),
        flaw=st.sampled_from(["", "", "", "", *FLAWS]),
        cut=st.booleans(),
    )
    def an_assign_comes(
        self, who: int, number: int, newer: int, tokens: int, resumed: int, flaw: str, cut: bool
    ) -> None:
        remote = self.requesters[who]
        number += who * 100
        run_key = (remote.node_id, request_id_of(number))
        attempt = max(1, self.attempts.get(run_key, 0) + newer)
        forgotten = self.side.now_ms - self.ended_ms.get(run_key, self.side.now_ms) >= TOMBSTONE_MS
        if attempt <= self.taken.get(run_key, 0) and forgotten:
            attempt = self.attempts[run_key] + 1  # what is forgotten may be begun again: no promise to check
        assign = assign_to(
            self.own.node_id, WALL_MS, number=number, attempt=attempt, tokens=tokens, resumed=resumed
        )
        line = Line(remote, self.own.node_id, assign)
        stream = len(self.lines) + 1
        self.lines[stream] = line
        stale = attempt <= self.taken.get(run_key, 0)
        if flaw not in (*UNBORNE, "boot"):
            self.attempts[run_key] = max(attempt, self.attempts.get(run_key, 0))
            if not stale:
                self.oracles.foreign_assign(remote.node_id, assign)
        data = line.first_item(flaw)
        self.feed(ev.StreamAccepted(stream, remote.node_id))
        middle = len(data) // 2 if cut else 0
        self.feed(ev.StreamData(stream, data[:middle]))
        self.feed(ev.StreamData(stream, data[middle:]))
        self.judge_assign(line, flaw, stale=stale)

    def judge_assign(self, line: Line, flaw: str, *, stale: bool) -> None:
        """What it must be answered with."""
        if flaw in UNBORNE:
            assert (line.reset, line.frames, line.job) == (StreamCode.PROTOCOL, [], None)
        elif flaw == "boot":
            assert self.rejected(line) is RejectReason.STALE_BOOT
        elif stale:
            assert (line.reset, line.frames, line.job) == (StreamCode.SUPERSEDED, [], None)
        elif self.draining:
            assert self.rejected(line) is RejectReason.DRAINING
        elif flaw and self.slots:
            assert self.rejected(line) is not None
        else:
            assert line.job is not None or self.rejected(line) is not None

    def rejected(self, line: Line) -> RejectReason | None:
        assert line.job is None
        assert line.ended
        (reject,) = line.frames
        assert isinstance(reject, Reject)
        assert reject.boot == WALL_MS
        return reject.reason

    @rule(who=st.integers(0, REQUESTERS - 1))
    def a_stream_opens_and_says_nothing(self, who: int) -> None:
        stream = len(self.lines) + 1
        assign = assign_to(self.own.node_id, WALL_MS, number=999, attempt=1, tokens=1, resumed=0)
        self.lines[stream] = Line(self.requesters[who], self.own.node_id, assign)
        self.feed(ev.StreamAccepted(stream, self.requesters[who].node_id))

    @precondition(lambda self: self.open_lines(assigned=True) or self.open_lines(assigned=False))
    @rule(pick=PICK, how=st.sampled_from(["cancel", "cancel", "junk", "finish", "reset", "stop", "lost"]))
    def a_requester_ends_it(self, pick: int, how: str) -> None:
        stream = picked(self.open_lines(assigned=True) + self.open_lines(assigned=False), pick)
        line = self.lines[stream]
        job, ended = line.job, line.ended
        match how:
            case "cancel" if line.writer is not None and not ended:
                self.feed(ev.StreamData(stream, line.writer.encode(Cancel(0, "by its user"))))
            case "junk" if not ended:
                self.feed(ev.StreamData(stream, b"\0\0\0\3abc"))
            case "reset":
                self.feed(ev.StreamReset(stream, 1))
            case "stop":
                self.feed(ev.StreamStopped(stream, 1))
            case "lost":
                self.feed(ev.StreamLost(stream, "by the machine"))
            case _:
                self.feed(ev.StreamFinished(stream))
        if how == "lost" or (ended and not line.over):
            self.over(line)
        assert line.over, f"{how} does not end it"
        if job is not None:
            self.oracles.work_let_go(self.own.node_id, 1, job, self.side.now_ms)

    # --- the engine ---

    def said(self, event: ev.Event) -> list[ef.Effect]:
        self.stepped_ms = self.side.now_ms
        return self.feed(event)

    def end_run(self, job: int, event: ev.EngineDone | ev.EngineFailed) -> None:
        del self.runs[job]
        self.oracles.work_ended(self.own.node_id, 1, job, self.side.now_ms)
        if isinstance(event, ev.EngineDone):
            self.stepped_ms = self.side.now_ms
        self.feed(event)

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, count=st.integers(0, 3), percent=st.integers(0, 100))
    def the_engine_works(self, pick: int, count: int, percent: int) -> None:
        job = picked(list(self.runs), pick)
        run = self.runs[job]
        if not run.started:
            run.started = True
            self.said(ev.EngineStarted(job, facts(run.answer)))
        if not count:
            self.said(ev.EngineProgress(job, Phase.PREFILL, percent))
        start, end = run.index, min(run.index + count, len(run.answer.texts))
        if end > start:
            run.index = end
            ids, texts = run.answer.ids[start:end], run.answer.texts[start:end]
            self.said(ev.EngineTokens(job, start, ids, texts))
        self.check_not_refused(job)

    def check_not_refused(self, job: int) -> None:
        (told,) = [line.last for line in self.lines.values() if line.job == job]
        assert not (isinstance(told, Error) and told.code == "engine_failed"), "a sound engine is refused"

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, flaw=st.sampled_from(["", "", "", "index", "total", "digest"]))
    def the_engine_is_done(self, pick: int, flaw: str) -> None:
        job = picked(list(self.runs), pick)
        run = self.runs[job]
        answer, total = run.answer, len(run.answer.texts)
        if run.index < total:
            index = run.index + (flaw == "index")
            self.said(ev.EngineTokens(job, index, answer.ids[run.index :], answer.texts[run.index :]))
        digest = bytes(32) if flaw == "digest" else answer.text_digest
        done = ev.EngineDone(
            job, answer.finish_reason, total + (flaw == "total"), answer.prompt_tokens, digest, WEIGHTS
        )
        self.end_run(job, done)
        if not flaw:
            self.check_not_refused(job)

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, retryable=st.booleans())
    def the_engine_fails(self, pick: int, retryable: bool) -> None:
        stopped = [job for job, run in self.runs.items() if run.cancelled]
        job = picked(stopped or list(self.runs), pick)
        code = "cancelled" if stopped else "engine_failed"
        self.end_run(job, ev.EngineFailed(job, code, "by the machine", retryable=retryable))

    @rule(late=st.booleans())
    def the_engine_steps_or_speaks_of_the_past(self, late: bool) -> None:
        if late:
            self.said(ev.EngineTokens(10**6, 0, (1,), ("x",)))
        else:
            self.said(ev.EngineStepped())

    # --- the rest ---

    @rule(n=st.integers(0, 5))
    def a_peer_announces_itself(self, n: int) -> None:
        peer, now_ms = key(f"peer {n}"), self.side.now_ms
        message = announce(WALL_MS, now_ms, WALL_MS + now_ms, NodeState.CLIENT)
        self.feed(ev.GossipReceived(peer.node_id, signed(message, peer)))

    @rule(ms=st.none() | st.sampled_from([1, 25, 300, 2_000, 11_000, 31_000, 121_000]))
    def time_passes(self, ms: int | None) -> None:
        self.pass_time(ms)

    def look(self) -> None:
        self.steps += 1
        queue = self.side.core._worker.jobs.queue
        assert queue.running == len(self.runs), "I7: a slot for each run and no other"
        assert not (queue.queued and queue.running < self.slots and not self.draining), "an idle slot"

    def come_to_rest(self) -> None:
        """I7: the engine ends what it was told to stop."""
        self.pass_time(QUIET_STREAM_MS)
        for stream in self.open_lines(assigned=True) + self.open_lines(assigned=False):
            line = self.lines[stream]
            assert line.job is not None, "a stream without a job is kept"
            assert not line.ended, "a stream is kept behind its last frame"
            if not line.over:
                self.feed(ev.StreamLost(stream, "the end"))
        assert all(run.cancelled for run in self.runs.values()), "I5: work for nobody"
        for job in list(self.runs):
            self.end_run(job, ev.EngineFailed(job, "cancelled", "cancelled", retryable=False))
        self.pass_time(QUIET_MS)

    def nothing_is_left(self) -> None:
        assert len(self.side.core._worker.jobs._fences) == 0, "a tombstone for ever"


TestWorker = WorkerMachine.TestCase
TestWorker.settings = MACHINES
