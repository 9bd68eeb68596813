"""Hostile values: whatever a member signs within the wire's limits, no core raises and no request hangs."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.codec import kind_of
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.frames import WORKER_KINDS
from llama_gossip.protocol.messages import (
    Assign,
    Capacity,
    Claim,
    EnvelopeMessage,
    Frame,
    Head,
    ModelOffer,
    NodeState,
    NumericsClass,
    Request,
)
from tests.protocol import wire_strategies as wire
from tests.protocol.fakewire import NET_ID, TERMINAL, WALL_MS
from tests.protocol.hand import (
    OWN_BOOT,
    REQUEST_ID,
    Clocked,
    HandClient,
    HandWorker,
    done,
    ended,
    key,
    progress,
    started,
    token,
    tokens,
)

OFFER = ModelOffer("tiny", None, 1 << 40, "", None, NumericsClass.FAST)


SPEEDS = st.sampled_from([0.0, 5e-324, -5e-324, -1.0, 1e-300, 1e308]) | wire.f64


@st.composite
def fitting(draw: st.DrawFn) -> Capacity:
    capacity = draw(wire.capacities)
    return replace(capacity, models=(OFFER, *capacity.models), tokens_per_s=draw(SPEEDS))


def heard(at: Clocked, message: EnvelopeMessage, seq: int) -> list[ef.Effect]:
    """Signed by its author, fresh and new: only its contents are strange."""
    signer = key("stranger")
    message = replace(message, head=Head(OWN_BOOT, seq, WALL_MS + at.now_ms))
    match message:
        case Request():
            message = replace(message, requester=signer.node_id)
        case Claim():
            message = replace(message, worker=signer.node_id)
        case _:
            pass
    try:
        data = sign_envelope(message, signer, NET_ID)
    except ProtocolError:  # over a cap: it cannot be sent
        return []
    return at.feed(ev.GossipReceived(signer.node_id, data))


@settings(max_examples=80, deadline=None)
@given(st.lists(fitting(), min_size=1, max_size=3), st.integers(0, 2**63), st.data())
def test_no_announced_capacity_breaks_a_pick_or_hangs_a_request(
    capacities: list[Capacity], ttl_ms: int, data: st.DataObject
) -> None:
    worker = HandWorker(ttl_ms=ttl_ms)
    for capacity in capacities:
        worker.say(capacity=capacity, state=NodeState.READY)
    heard(worker.client, data.draw(wire.announces), 1)
    worker.submit(deadline_ms=None)
    if worker.client.all(ef.OpenStream):
        worker.connect().send(progress(), token(0, "a"))
    worker.client.feed(ev.CancelRequest(REQUEST_ID, "enough"))
    assert len([e for e in worker.client.told if isinstance(e, TERMINAL)]) == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(wire.frames | st.builds(lambda n: token(n, "a"), st.integers(0, 3)), max_size=12), st.data())
def test_no_frame_of_a_worker_breaks_its_requester(frames: list[Frame], data: st.DataObject) -> None:
    worker, hand = started(deadline_ms=600_000)
    for frame in frames:
        if kind_of(frame) in WORKER_KINDS:
            try:
                hand.send(frame)
            except ProtocolError:  # it has said its last frame
                break
        worker.client.wait(data.draw(st.integers(0, 3_000)))
    worker.client.wait(620_000)
    assert len([e for e in worker.client.told if isinstance(e, TERMINAL)]) == 1
    assert len(worker.client.core._requester) == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(wire.assigns, min_size=1, max_size=4), st.data())
def test_no_assign_breaks_a_worker_and_every_slot_is_free_after_its_end(
    assigns: list[Assign], data: st.DataObject
) -> None:
    client = HandClient()
    for assign in assigns:
        changes = {name: getattr(assign, name) for name in Assign.__dataclass_fields__}
        changes["worker"] = client.worker.node_id
        if data.draw(st.booleans()):
            changes |= {"worker_boot": OWN_BOOT, "model": "tiny", "model_digest": None}
        asked = client.ask(**changes)
        for start in [e for e in client.worker.told if isinstance(e, ef.StartJob)]:
            client.worker.feed(tokens(start.job, 0, "a"))
            client.worker.feed(done(start.job, "a", 1))
            client.worker.feed(ended(start.job))
        client.worker.wait(data.draw(st.integers(0, 1_000)))
        client.worker.feed(ev.StreamFinished(asked.stream))
    client.worker.wait(4_000_000)
    assert len(client.worker.core._worker.jobs) == 0
    assert client.worker.core._worker.jobs.queue.running == 0
    assert not client.worker.core._worker._inbound


@settings(max_examples=100, deadline=None)
@given(st.lists(wire.envelopes, max_size=8), st.integers(0, 10_000))
def test_nothing_that_a_member_says_on_the_topic_breaks_a_node(
    messages: list[EnvelopeMessage], pause_ms: int
) -> None:
    client = HandClient()
    for seq, message in enumerate(messages):
        effects = heard(client.worker, message, seq)
        assert not [e for e in effects if isinstance(e, ef.StartJob | ef.OpenStream | ef.WriteStream)]
        client.worker.wait(pause_ms)
    client.worker.wait(400_000)
    assert not client.worker.core.peers(ev.Now(client.worker.now_ms, 0)), "no ttl is longer than 180 s"
