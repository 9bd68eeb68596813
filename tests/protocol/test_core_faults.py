"""Whatever breaks, whenever: one terminal event a request, contiguous tokens, all slots free at the end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.messages import Head
from llama_gossip.protocol.transcript import verify_transcript
from tests.protocol.fakewire import NET_ID, WALL_MS, FakeNet, FakeNode, check_promises, check_quiet
from tests.protocol.hand import announce, key
from tests.protocol.scripted_model import ScriptedModel

FAULTS = ["cut", "kill", "freeze", "thaw", "cancel", "drain", "goodbye", "corrupt", "restart", "ask", "model"]
STORIES = st.lists(st.tuples(st.integers(0, 300), st.sampled_from(FAULTS), st.integers(0, 2**16)), max_size=8)
MODELS = st.builds(
    ScriptedModel,
    slots=st.integers(1, 3),
    token_ms=st.sampled_from([1, 7, 30]),
    prefill_ms=st.sampled_from([1, 60]),
    stop_after=st.sampled_from([None, None, 0, 4]),
    fail_after=st.sampled_from([None, None, None, 0, 3]),
    hang_after=st.sampled_from([None, None, None, 0, 3]),
    corrupt_at=st.sampled_from([None, None, None, 2]),
    wrong_digest=st.sampled_from([False, False, True]),
)
SLOW = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Story:
    """A client, a hybrid and a worker, and what happens to them."""

    def __init__(self, seed: int, models: list[ScriptedModel]) -> None:
        self.net = net = FakeNet(seed, delay_ms=(1, 12), gossip_loss=0.1)
        net.cut_chunks = True
        net.gossip_copies = 2
        self.client, self.hybrid = net.add("client"), net.add("hybrid", models[0])
        self.worker = net.add("worker", models[1])
        net.join(self.client, self.hybrid, self.worker)
        net.run_for(500)
        self.ask(0)

    def ask(self, pick: int) -> None:
        for node in (self.client, self.hybrid):
            if node.alive and node.frozen is None:
                node.ask(seed=pick % 7, max_tokens=1 + pick % 12, deadline_ms=20_000)

    def happen(self, what: str, pick: int) -> None:
        net = self.net
        node: FakeNode = net.nodes[pick % len(net.nodes)]
        match what:
            case "cut" if net.ends:
                net.cut(sorted(net.ends)[pick % len(net.ends)])
            case "kill" if node is not self.client:
                net.kill(node)
            case "freeze" if node.alive and node.frozen is None:
                net.freeze(node)
            case "thaw":
                net.thaw(node)
            case "cancel":
                for request_id in list(node.user)[: 1 + pick % 3]:
                    node.feed(ev.CancelRequest(request_id, "enough"))
            case "drain":
                node.feed(ev.Drain("story"))
            case "goodbye":
                node.feed(ev.Goodbye("story"))
            case "corrupt" if net.ends:
                self._junk(sorted(net.ends)[pick % len(net.ends)], pick)
            case "restart" if not node.alive and node.model is not None:
                net.join(net.add(node.name, ScriptedModel()))
            case "ask":
                self.ask(pick)
            case "model":
                node.feed(ev.EngineChanged(None, loading=bool(pick % 2)))
            case _:
                pass

    def _junk(self, stream: int, pick: int) -> None:
        """Bytes that nobody signed arrive on a stream."""
        end = self.net.ends[stream]
        if not end.deaf and end.announced and end.owner.frozen is None:
            junk = self.net.rng.randbytes(1 + pick % 80)
            end.owner.feed(ev.StreamData(stream, junk))

    def settle(self) -> None:
        for node in self.net.nodes:
            self.net.thaw(node)
        self.net.run_for(90_000)


@SLOW
@given(st.integers(0, 2**32), st.lists(MODELS, min_size=2, max_size=2), STORIES)
def test_every_story_ends_with_one_terminal_event_a_request_and_all_slots_free(
    seed: int, models: list[ScriptedModel], story: list[tuple[int, str, int]]
) -> None:
    told = Story(seed, models)
    for wait_ms, what, pick in story:
        told.net.run_for(wait_ms)
        told.happen(what, pick)
        check_promises(told.net)
    told.settle()
    check_quiet(told.net)
    for node in told.net.nodes:
        for request_id in node.user:
            end = node.end_of(request_id)
            event(end.code if isinstance(end, ef.Failed) else "finished")
            verdict = verify_transcript(node.core.take_transcript(request_id))
            assert verdict.verified is isinstance(end, ef.Finished), verdict.reason
            assert not verdict.verified or verdict.text == node.text_of(request_id)


@SLOW
@given(st.integers(0, 2**32), st.data())
def test_however_the_bytes_are_cut_the_answer_is_the_same(seed: int, data: st.DataObject) -> None:
    net = FakeNet(seed, delay_ms=(0, 20))
    net.cut_chunks = True
    client, worker = (
        net.add("client"),
        net.add("worker", ScriptedModel(token_ms=data.draw(st.integers(1, 9)))),
    )
    net.join(client, worker)
    net.run_for(1_000)
    request_id = client.ask(max_tokens=data.draw(st.integers(1, 60)))
    assert isinstance(net.finish(client, request_id), ef.Finished)
    net.run_for(5_000)
    check_quiet(net)


# --- what is not ours changes nothing -----------------------------------------------------------------


def state_of(node: FakeNode) -> tuple[Any, ...]:
    """All that decides what the node does next; counters, budgets and clock samples apart."""
    core = node.core
    peers = tuple((n, p.announce, p.expires_mono_ms) for n, p in sorted(core._roster.items()))
    jobs = core._worker.jobs
    requests = tuple((r.state, r.delivered, r.attempts) for r in core._requester._requests.values())
    return peers, requests, jobs.queue.running, jobs.queue.queued, len(jobs), core._desk.seq


def busy() -> tuple[FakeNet, FakeNode, FakeNode]:
    net = FakeNet(44)
    client, worker = net.add("client"), net.add("worker", ScriptedModel(token_ms=40))
    net.join(client, worker)
    net.run_for(1_500)
    request_id = client.ask(max_tokens=100)
    net.run_until(lambda: bool(client.told(request_id, ef.DeliverTokens)))
    return net, client, worker


def foreign(net: FakeNet, what: str) -> bytes:
    signer = key("stranger")
    message = announce(head=Head(WALL_MS, 5, WALL_MS + net.now_ms))
    match what:
        case "another network":
            return sign_envelope(message, signer, bytes(32))
        case "a flipped bit":
            good = bytearray(sign_envelope(message, signer, NET_ID))
            good[-1] ^= 1
            return bytes(good)
        case "an old ts":
            old = announce(head=Head(WALL_MS, 5, WALL_MS + net.now_ms - 60_001))
            return sign_envelope(old, signer, NET_ID)
        case _:
            return b"junk"


@pytest.mark.parametrize("what", ["another network", "a flipped bit", "an old ts", "junk"])
def test_gossip_that_is_not_ours_leaves_the_state_unchanged(what: str) -> None:
    net, client, worker = busy()
    data = foreign(net, what)
    for node in (client, worker):
        before = state_of(node)
        node.feed(ev.GossipReceived(key("neighbour").node_id, data))
        assert state_of(node) == before
        assert any(name.startswith("dropped_") for name in node.core.counters())


def test_replayed_gossip_leaves_the_state_unchanged() -> None:
    _, client, worker = busy()
    for broadcast in worker.effects(ef.Broadcast):
        before = state_of(client)
        client.feed(ev.GossipReceived(worker.node_id, broadcast.data))
        assert state_of(client) == before


def test_a_replayed_assign_on_a_stream_of_its_own_starts_nothing() -> None:
    net, client, worker = busy()
    assign = next(e.data for e in client.effects(ef.WriteStream))
    before = state_of(worker)
    for stream, remote in ((9_001, key("thief").node_id), (9_002, client.node_id)):
        worker.core.handle(ev.StreamAccepted(stream, remote), net.clock())
        effects = worker.core.handle(ev.StreamData(stream, assign), net.clock())
        assert [e.stream for e in effects if isinstance(e, ef.ResetStream)] == [stream]
        assert not any(isinstance(e, ef.StartJob) for e in effects)
    assert state_of(worker) == before


def test_events_of_streams_and_jobs_that_are_not_there_change_nothing() -> None:
    net, client, worker = busy()
    strays: list[ev.Event] = [
        ev.StreamData(777, b"x"),
        ev.StreamFinished(777),
        ev.StreamReset(777, 0),
        ev.StreamStopped(777, 0),
        ev.StreamLost(777, ""),
        ev.DialFailed(777, ""),
        ev.EngineFailed(777, "engine_failed", "", retryable=True),
        ev.NeighborDown(client.node_id),
        ev.Tick(),
    ]
    for node in (client, worker):
        before = state_of(node)
        for stray in strays:
            effects = node.core.handle(stray, net.clock())
            assert not [e for e in effects if not isinstance(e, ef.Wake)]
        assert state_of(node) == before
