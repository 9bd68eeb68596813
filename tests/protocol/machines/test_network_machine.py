"""Three cores and the wire between them: every order of what may come next, loss, doubles, cuts and restarts.

A client, a worker and one that is both. The oracles are the simulation's, over the whole history: I1-I5, I7,
I8, I10, I12, I15, I16; after all faults have ended, I11: whoever asks is answered.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import ChatPrompt, GenerationConfig, NodeId, RequestId
from llama_gossip.simulation import guards
from llama_gossip.simulation.load import CANARY
from llama_gossip.simulation.machine import MODEL
from tests.protocol.machines.parts import DATE, no_violation, picked
from tests.protocol.machines.profile import MACHINES, PATIENCE
from tests.protocol.machines.small_net import Node, SmallNet

pytestmark = PATIENCE

PICK = st.integers(0, 1_000)
MAX_ASKED = 6
HEAL_MS = 130_000  # a worker that is out is asked again when it announces itself; a tombstone's life
STEP_MS = 250


class NetworkMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 3))
    def begin(self, seed: int) -> None:
        self.net = SmallNet(seed)
        self.net.settle()
        self.asked: list[tuple[Node, RequestId]] = []

    # --- users ---

    @rule(hybrid=st.booleans(), prompt=st.integers(0, 3), max_tokens=st.integers(4, 30))
    def somebody_asks(self, hybrid: bool, prompt: int, max_tokens: int) -> None:
        if len(self.asked) < MAX_ASKED:
            self.ask(self.net.nodes[hybrid], prompt, max_tokens)

    def ask(self, node: Node, prompt: int, max_tokens: int) -> tuple[NodeId, RequestId]:
        submit = ev.Submit(
            request_id=RequestId(len(self.asked).to_bytes(16, "big")),
            model=MODEL,
            prompt=ChatPrompt((("user", f"{CANARY}{prompt}"),)),
            config=GenerationConfig(max_tokens=max_tokens, seed=prompt),
            date=DATE,
        )
        if node.side is not None:
            self.asked.append((node, submit.request_id))
            self.net.oracles.submitted(node.node_id, submit, self.net.now_ms)
            self.net.feed(node, submit)
        return node.node_id, submit.request_id

    @precondition(lambda self: len(self.asked) > 3)
    @rule(pick=PICK)
    def somebody_cancels(self, pick: int) -> None:
        node, request_id = picked(self.asked, pick)
        story = self.net.oracles.stories[node.node_id, request_id]
        story.cancelled = story.cancelled or not story.over
        self.net.feed(node, ev.CancelRequest(request_id, "by its user"))

    # --- what comes next ---

    @precondition(lambda self: self.net.gossip)
    @rule(pick=PICK, how=st.sampled_from(["once", "once", "once", "again", "never"]))
    def gossip_comes(self, pick: int, how: str) -> None:
        at = pick % len(self.net.gossip)
        self.net.deliver_gossip(at, keep=how == "again", drop=how == "never")

    def dialling(self) -> list[tuple[Node, int]]:
        return [(node, dial) for node in self.net.nodes for dial in node.dials]

    @precondition(lambda self: self.dialling())
    @rule(pick=PICK, fails=st.sampled_from([False, False, False, True]))
    def a_dial_ends(self, pick: int, fails: bool) -> None:
        self.net.connect(*picked(self.dialling(), pick), fails=fails)

    @precondition(lambda self: self.net.ready())
    @rule(pick=PICK, count=st.integers(1, 4))
    def a_stream_brings_something(self, pick: int, count: int) -> None:
        end = picked(self.net.ready(), pick)
        for _ in range(min(count, len(end.waiting))):
            if end.waiting:
                self.net.deliver(end)

    def running(self) -> list[tuple[Node, int]]:
        return [(node, job) for node in self.net.nodes for job in node.runs]

    @precondition(lambda self: self.running())
    @rule(pick=PICK, words=st.integers(1, 4), tokens=st.integers(1, 2))
    def an_engine_works(self, pick: int, words: int, tokens: int) -> None:
        node, job = picked(self.running(), pick)
        for _ in range(words):
            if job in node.runs:
                self.net.engine_word(node, job, tokens=tokens)

    @rule()
    def everything_goes_well_for_a_moment(self) -> None:
        """So that what is rare comes behind what is usual."""
        for _ in range(14):
            if self.dialling():
                self.net.connect(*self.dialling()[0], fails=False)
            elif self.net.ready():
                self.net.deliver(self.net.ready()[0])
            elif self.running():
                self.net.engine_word(*self.running()[0])

    @rule(ms=st.sampled_from([1, 30, 500, 500, 1_500, 4_000, 16_000]))
    def time_passes(self, ms: int) -> None:
        self.net.advance(self.net.now_ms + ms)

    # --- faults ---

    def live_ends(self) -> list[int]:
        return [number for number, end in self.net.ends.items() if end.opener and not end.deaf]

    @precondition(lambda self: self.live_ends() or self.running())
    @rule(pick=PICK, engine=st.sampled_from([False, False, True]))
    def something_breaks(self, pick: int, engine: bool) -> None:
        """A connection, or a job of an engine."""
        if engine and self.running():
            self.net.engine_word(*picked(self.running(), pick), fails=True)
        elif self.live_ends():
            ends = self.live_ends()
            self.net.cut(self.net.ends[ends[-1] if pick % 2 else picked(ends, pick)])

    @rule(pick=st.integers(0, 2), back=st.booleans())
    def a_process_dies(self, pick: int, back: bool) -> None:
        """back: it is there again at once."""
        node = self.net.nodes[pick]
        if node.side is None:
            self.net.start(node)
            return
        self.net.crash(node)
        if back:
            self.net.start(node)

    # --- what always holds, and what holds in the end ---

    @invariant()
    def the_promises_hold(self) -> None:
        if hasattr(self, "net"):
            no_violation(self.net.oracles)

    def rest(self, span_ms: int) -> None:
        end_ms = self.net.now_ms + span_ms
        self.net.settle()
        while self.net.now_ms < end_ms:
            self.net.advance(self.net.now_ms + STEP_MS)
            self.net.settle()
            wake = self.net.next_wake()
            if wake is not None and wake[0] > self.net.now_ms + STEP_MS:
                self.net.now_ms = min(end_ms, wake[0] - STEP_MS)

    def teardown(self) -> None:
        if not hasattr(self, "net"):
            return
        net = self.net
        for node in net.nodes:
            if node.side is None:
                net.start(node)
        self.rest(HEAL_MS)
        for node in net.nodes[:2]:  # I11: the faults are over
            story = net.oracles.stories[self.ask(node, 1, 5)]
            self.rest(STEP_MS)
            assert isinstance(story.end, ef.Finished), f"not answered after the heal: {story.end}"
        self.rest(5_000)
        net.oracles.finish(net.now_ms, healed_ms=net.now_ms)
        no_violation(net.oracles)
        for node in net.nodes:
            assert node.side is not None
            assert not (found := guards.unfinished(node.side.core)), f"{node.name}: {found}"


TestNetwork = NetworkMachine.TestCase
TestNetwork.settings = MACHINES
