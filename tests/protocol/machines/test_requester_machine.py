"""The requester under any order of what can happen: users, dials, workers' frames, ends of streams, time.

Three workers are played by the test, well and badly. The oracles are the simulation's: I1-I5, I8, I10-I16.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.frames import (
    REQUESTER_KINDS,
    FrameReader,
    FrameWriter,
    ItemSplitter,
    open_assign,
)
from llama_gossip.protocol.messages import (
    Cancel,
    ChatPrompt,
    Error,
    Frame,
    GenerationConfig,
    Head,
    Leave,
    NodeId,
    NodeState,
    Phase,
    Progress,
    Reject,
    RequestId,
)
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.simulation import guards
from llama_gossip.simulation.load import CANARY
from llama_gossip.simulation.machine import MODEL
from llama_gossip.simulation.oracles import Oracles
from llama_gossip.simulation.signing import verify_hash
from tests.protocol.fakewire import NET_ID, WALL_MS
from tests.protocol.machines.one_core import OneCore
from tests.protocol.machines.parts import DATE, Clocked, announce, facts, key, new_core, picked, signed
from tests.protocol.machines.profile import MACHINES, PATIENCE
from tests.protocol.machines.worker_hand import FAILURES, LIES, REFUSALS, Line, Peer

WORKERS = 3
SILENT_MS = 8_000  # the longest stall; whoever has not even accepted has less
LONG_MS = 420_000  # every deadline of the machine is over by then
pytestmark = PATIENCE

PICK = st.integers(0, 1_000)
ENDS = ("finished", "reset", "lost", "lost", "stopped", "stopped", "reset", "refused")
USER = (ef.Accepted, ef.DeliverTokens, ef.Retried, ef.Finished, ef.Failed)


class RequesterMachine(OneCore):
    @initialize(seed=st.integers(0, 7), eager=st.sampled_from([True, True, True, False]))
    def begin(self, seed: int, eager: bool) -> None:
        """eager: dials connect at once, so that more steps are left for what comes after."""
        self.eager = eager
        self.oracles = Oracles(failover=True)
        self.own = key("client")
        self.side = Clocked(new_core(self.own, "client", WALL_MS, seed), self.oracles)
        self.peers = [Peer(key(f"worker {n}")) for n in range(WORKERS)]
        self.by_id = {peer.signer.node_id: peer for peer in self.peers}
        self.dials: dict[int, NodeId] = {}
        self.lines: dict[int, Line] = {}
        self.dead: dict[int, Line] = {}
        self.submitted: list[RequestId] = []
        self.heard: list[bytes] = []
        self.paused: set[int] = set()
        self.streams = 0
        self.feed(ev.Joined(()))
        for peer in self.peers:
            self.announce(peer)

    # --- the driver's part ---

    def feed(self, event: ev.Event) -> None:
        for effect in self.side.handle(event):
            self.perform(effect)
        while self.eager and self.dials:
            self.a_dial_connects(0)

    def perform(self, effect: ef.Effect) -> None:
        match effect:
            case ef.OpenStream(dial, worker):
                self.dials[dial] = worker
            case ef.AbandonDial(dial):
                assert self.dials.pop(dial, None) is not None, "abandons a dial that has ended"
            case ef.WriteStream(stream, data):
                self.wrote(stream, data)
            case ef.FinishStream(stream):
                line = self.lines[stream]
                assert not line.ours_ended, "finishes its side twice"
                line.ours_ended = True
                if line.theirs_finished:
                    self.dead[stream] = self.lines.pop(stream)
            case ef.PauseStream(stream):
                assert stream not in self.paused, "pauses twice"
                self.paused.add(stream)
            case ef.ResumeStream(stream):
                self.paused.remove(stream)
                self.lines[stream].spoke_ms = self.side.now_ms
            case ef.ResetStream(stream):
                self.paused.discard(stream)
                if stream in self.lines:
                    self.dead[stream] = self.lines.pop(stream)
            case ef.FailedOver(request_id, _, _, _, index):
                story = self.oracles.stories[self.own.node_id, request_id]
                assert index == story.delivered > 0, "told of a seam that is none"
            case _ if isinstance(effect, USER):
                self.oracles.told(self.own.node_id, effect, self.side.now_ms)
            case _:
                pass

    def wrote(self, stream: int, data: bytes) -> None:
        line = self.lines[stream]
        line.spoke_ms = self.side.now_ms
        assert not line.ours_ended, "a write after the end of its own side"
        for item in ItemSplitter().feed(data):
            if line.assign is None:
                line.assign, sender, context, _ = open_assign(item, NET_ID, verify_hash)
                assert sender == self.own.node_id
                assert line.assign.worker == line.peer.signer.node_id
                line.writer = FrameWriter(context, line.peer.signer)
                line.reader = FrameReader(context, sender, verify_hash, REQUESTER_KINDS)
                line.index = 0 if line.assign.resume is None else line.assign.resume.from_index
                self.oracles.assigned(self.own.node_id, line.assign, self.side.now_ms)
            else:
                assert line.reader is not None
                assert isinstance(line.reader.decode(item), Cancel)

    # --- the topic ---

    def gossip(self, peer: Peer, data: bytes) -> None:
        self.heard.append(data)
        self.feed(ev.GossipReceived(peer.signer.node_id, data))

    def announce(self, peer: Peer, state: NodeState = NodeState.READY) -> None:
        peer.seq += 1
        message = announce(peer.boot, peer.seq, WALL_MS + self.side.now_ms, state)
        self.gossip(peer, signed(message, peer.signer))

    @rule(pick=PICK, what=st.sampled_from(["ready"] * 12 + ["loading", "draining", "restart", "leave"]))
    def a_worker_says_how_it_is(self, pick: int, what: str) -> None:
        peer = picked(self.peers, pick)
        if what == "leave":
            peer.seq += 1
            leave = Leave(Head(peer.boot, peer.seq, WALL_MS + self.side.now_ms), "off")
            self.gossip(peer, signed(leave, peer.signer))
        elif what == "restart":
            peer.boot, peer.seq = peer.boot + 1, 0
            self.announce(peer)
        else:
            self.announce(peer, NodeState[what.upper()])

    @precondition(lambda self: self.heard)
    @rule(pick=PICK)
    def what_was_heard_comes_again(self, pick: int) -> None:
        """I6."""
        data = picked(self.heard, pick)
        self.feed(ev.Tick())
        before = guards.fingerprint(self.side.core, self.side.now_ms)
        self.feed(ev.GossipReceived(self.peers[0].signer.node_id, data))
        assert guards.fingerprint(self.side.core, self.side.now_ms) == before

    # --- the user ---

    @rule(
        prompt=st.integers(0, 3),
        seed=st.integers(0, 3),
        max_tokens=st.integers(1, 12),
        deadline_ms=st.sampled_from([None, None, None, None, 2_000, 60_000]),
        pinned=st.sampled_from([None] * 6 + [0]),
        least=st.sampled_from([ResumeClass.EXACT, ResumeClass.IDS, ResumeClass.TEXT]),
        any_model=st.booleans(),
    )
    def the_user_asks(
        self,
        prompt: int,
        seed: int,
        max_tokens: int,
        deadline_ms: int | None,
        pinned: int | None,
        least: ResumeClass,
        any_model: bool,
    ) -> None:
        if sum(not story.over for story in self.oracles.stories.values()) >= 3:
            return
        submit = ev.Submit(
            request_id=RequestId(len(self.submitted).to_bytes(16, "big")),
            model="" if any_model else MODEL,
            prompt=ChatPrompt((("user", f"{CANARY}{prompt}"),)),
            config=GenerationConfig(max_tokens=max_tokens, seed=seed),
            date=DATE,
            deadline_ms=deadline_ms,
            worker=None if pinned is None else self.peers[pinned].signer.node_id,
            resume=least,
        )
        self.submitted.append(submit.request_id)
        self.oracles.submitted(self.own.node_id, submit, self.side.now_ms)
        self.feed(submit)

    @precondition(lambda self: self.submitted)
    @rule(pick=PICK)
    def the_user_cancels(self, pick: int) -> None:
        request_id = picked(self.submitted, pick)
        if not self.oracles.stories[self.own.node_id, request_id].over:
            self.oracles.cancelled((self.own.node_id, request_id))
        self.feed(ev.CancelRequest(request_id, "by its user"))

    @precondition(lambda self: self.submitted)
    @rule(pick=PICK, full=st.booleans())
    def its_reader_stops_or_goes_on(self, pick: int, full: bool) -> None:
        request_id = picked(self.submitted, pick)
        self.feed(ev.ReaderFull(request_id) if full else ev.ReaderReady(request_id))

    # --- dials ---

    @precondition(lambda self: self.dials)
    @rule(pick=PICK)
    def a_dial_connects(self, pick: int) -> None:
        dial = picked(list(self.dials), pick)
        self.streams += 1
        self.lines[self.streams] = Line(self.by_id[self.dials.pop(dial)], self.side.now_ms)
        self.feed(ev.StreamOpened(dial, self.streams))

    @precondition(lambda self: self.dials)
    @rule(pick=PICK, refused=st.sampled_from([False] * 5 + [True]))
    def a_dial_fails(self, pick: int, refused: bool) -> None:
        dial = picked(list(self.dials), pick)
        del self.dials[dial]
        self.feed(ev.DialFailed(dial, "by the machine", refused))

    # --- what workers send ---

    def assigned_lines(self) -> list[int]:
        return [number for number, line in self.lines.items() if line.assign and not line.theirs_ended]

    def send(self, stream: int, *frames: Frame) -> None:
        line = self.lines[stream]
        line.spoke_ms = self.side.now_ms
        assert line.writer is not None
        data = b"".join(line.writer.encode(frame) for frame in frames)
        middle = len(data) // 2
        for chunk in (data[:middle], data[middle:]):
            self.feed(ev.StreamData(stream, chunk))

    @precondition(lambda self: self.assigned_lines())
    @rule(pick=PICK, phase=st.sampled_from(Phase), value=st.integers(0, 100), with_facts=st.booleans())
    def a_worker_tells_progress(self, pick: int, phase: Phase, value: int, with_facts: bool) -> None:
        stream = picked(self.assigned_lines(), pick)
        told = facts(self.lines[stream].answer) if with_facts else None
        self.send(stream, Progress(0, phase, value, 100, told))

    @precondition(lambda self: self.assigned_lines())
    @rule(pick=PICK, counts=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    def a_worker_sends_tokens(self, pick: int, counts: list[int]) -> None:
        stream = picked(self.assigned_lines(), pick)
        for count in counts:
            if stream in self.lines and (token := self.lines[stream].tokens(count)) is not None:
                self.send(stream, token)

    @precondition(lambda self: self.assigned_lines())
    @rule(pick=PICK)
    def a_worker_answers_to_the_end(self, pick: int) -> None:
        stream = picked(self.assigned_lines(), pick)
        line = self.lines[stream]
        self.send(stream, Progress(0, Phase.PREFILL, 1, 1, facts(line.answer)))
        if stream in self.lines:
            rest = line.tokens(10**6)
            line.theirs_ended = True
            self.send(stream, *([rest] if rest else []), line.complete())

    @precondition(lambda self: self.assigned_lines())
    @rule(pick=PICK, how=REFUSALS | FAILURES, fruitful=st.integers(0, 3))
    def a_worker_fails(self, pick: int, how: Reject | Error, fruitful: int) -> None:
        """After some more tokens, as a rule."""
        stream = picked(self.assigned_lines(), pick)
        line = self.lines[stream]
        if fruitful and isinstance(how, Error):
            self.a_worker_sends_tokens(pick, [fruitful])
        if stream in self.lines:
            line.theirs_ended = True
            self.send(stream, how if isinstance(how, Error) else replace(how, boot=line.peer.boot))
            assert stream not in self.lines, f"{how} was borne"

    @precondition(lambda self: self.assigned_lines())
    @rule(pick=PICK, lie=LIES, tokens=st.integers(0, 1))
    def a_worker_lies(self, pick: int, lie: str, tokens: int) -> None:
        stream = picked(self.assigned_lines(), pick)
        if tokens:
            self.a_worker_sends_tokens(pick, [tokens])
        line = self.lines.get(stream)
        if line is not None and (data := line.lie(lie)):
            line.theirs_ended = True
            self.feed(ev.StreamData(stream, data))
            assert stream not in self.lines, f"{lie} was borne"

    # --- ends of streams ---

    @precondition(lambda self: self.lines)
    @rule(pick=PICK, how=st.sampled_from(ENDS))
    def a_stream_ends(self, pick: int, how: str) -> None:
        stream = picked(list(self.lines), pick)
        event: ev.Event
        match how:
            case "finished":
                event = ev.StreamFinished(stream)
            case "reset":
                event = ev.StreamReset(stream, 3)
            case "stopped":
                event = ev.StreamStopped(stream, 1)
            case _:
                event = ev.StreamLost(stream, "by the machine", how == "refused")
        line = self.lines[stream]
        if how != "stopped":
            line.theirs_ended = line.theirs_finished = True
        if how in ("reset", "lost", "refused") or (how == "finished" and line.ours_ended):
            self.dead[stream] = self.lines.pop(stream)
        self.feed(event)

    @precondition(lambda self: self.dead)
    @rule(pick=PICK, junk=st.booleans())
    def an_echo_comes_of_a_stream_that_is_over(self, pick: int, junk: bool) -> None:
        stream = picked(list(self.dead), pick)
        before = len(self.oracles.violations)
        self.feed(ev.StreamData(stream, b"\0\0\0\1x") if junk else ev.StreamReset(stream, 0))
        assert len(self.oracles.violations) == before

    # --- time ---

    @rule(ms=st.none() | st.sampled_from([1, 10, 250, 500, 1_000, 2_000, 10_000, 31_000]))
    def time_passes(self, ms: int | None) -> None:
        self.pass_time(ms)

    # --- what always holds, and what holds in the end ---

    def look(self) -> None:
        read = [line for stream, line in self.lines.items() if stream not in self.paused]
        silent_ms = [self.side.now_ms - line.spoke_ms for line in read]
        assert max(silent_ms, default=0) <= SILENT_MS, "a worker is borne in silence"

    def come_to_rest(self) -> None:
        """Nobody answers any more."""
        self.pass_time(LONG_MS)

    def nothing_is_left(self) -> None:
        """I3, I7, I11: every request has its one end all the same."""
        assert all(story.over for story in self.oracles.stories.values()), "a request without its end"
        assert not self.dials
        assert not self.lines, "a stream is still open"


TestRequester = RequesterMachine.TestCase
TestRequester.settings = MACHINES
