"""Frames: numbered without gaps, bound to their Assign, cut out of any chunks, capped before they are
kept."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol import limits
from llama_gossip.protocol.codec import encode_payload
from llama_gossip.protocol.envelope import sign_envelope, verify_signature
from llama_gossip.protocol.frames import (
    REQUESTER_KINDS,
    TERMINAL_KINDS,
    WORKER_KINDS,
    FrameReader,
    FrameWriter,
    ItemSplitter,
    assign_context,
    encode_assign,
    frame_signed_bytes,
    open_assign,
    prefixed,
)
from llama_gossip.protocol.messages import (
    Ack,
    Assign,
    Cancel,
    Complete,
    Error,
    Frame,
    Kind,
    Progress,
    RawPrompt,
    Reject,
    Token,
)
from llama_gossip.protocol.network import net_id, open_secret
from tests.protocol.wire_samples import ENVELOPES, FRAMES, LEAVE, NET_ID, REQUESTER, WORKER
from tests.protocol.wire_strategies import frames

CONTEXT = assign_context(b"some Assign")
ASSIGN = ENVELOPES["assign"]
assert isinstance(ASSIGN, Assign)
WITH_ACK = WORKER_KINDS | {Kind.ACK}


def writer(context: bytes = CONTEXT, start_n: int = 0) -> FrameWriter:
    return FrameWriter(context, WORKER, start_n)


def reader(context: bytes = CONTEXT, allowed: frozenset[Kind] = WORKER_KINDS) -> FrameReader:
    return FrameReader(context, WORKER.node_id, verify_signature, allowed)


def item(frame: Frame, source: FrameWriter) -> bytes:
    return source.encode(frame)[limits.LENGTH_PREFIX_BYTES :]


def refused(target: FrameReader, data: bytes) -> str:
    before = target.next_n, target.ended
    with pytest.raises(ProtocolError) as caught:
        target.decode(data)
    assert (target.next_n, target.ended) == before
    return caught.value.code


def forge(kind: int, payload: bytes, context: bytes = CONTEXT) -> bytes:
    """Signed by the worker, but made by no FrameWriter."""
    signature = WORKER.sign(frame_signed_bytes(context, WORKER.node_id, kind, payload))
    packed: bytes = msgpack.packb((kind, payload, signature))
    return packed


# --- the Assign ----------------------------------------------------------------------------------


def test_both_sides_of_an_attempt_derive_the_same_context_from_the_assign() -> None:
    data, context = encode_assign(ASSIGN, REQUESTER, NET_ID)
    [first] = ItemSplitter().feed(data)
    assign, sender, their_context, _ = open_assign(first, NET_ID, verify_signature)
    assert (assign, sender, their_context) == (ASSIGN, REQUESTER.node_id, context)


def test_another_attempt_network_or_prompt_is_another_context() -> None:
    other_net = net_id(open_secret("another"))
    contexts = {
        encode_assign(ASSIGN, REQUESTER, NET_ID)[1],
        encode_assign(replace(ASSIGN, attempt=2), REQUESTER, NET_ID)[1],
        encode_assign(replace(ASSIGN, prompt=RawPrompt("else")), REQUESTER, NET_ID)[1],
        encode_assign(ASSIGN, REQUESTER, other_net)[1],
        encode_assign(ASSIGN, WORKER, NET_ID)[1],
    }
    assert len(contexts) == 5


def test_a_stream_begins_with_a_valid_assign_of_this_network_or_not_at_all() -> None:
    data, _ = encode_assign(ASSIGN, REQUESTER, NET_ID)
    good = data[limits.LENGTH_PREFIX_BYTES :]
    other = encode_assign(ASSIGN, REQUESTER, net_id(open_secret("another")))[0][limits.LENGTH_PREFIX_BYTES :]
    cases = {
        "signature": [good[:-1] + bytes([good[-1] ^ 1]), other],
        "kind": [sign_envelope(LEAVE, REQUESTER, NET_ID)],
        "malformed": [good[:-1], good + b"\0", b"", item(FRAMES["cancel"], writer())],
        "oversize": [bytes(limits.MAX_ASSIGN_BYTES + 1)],
    }
    for code, items in cases.items():
        for junk in items:
            with pytest.raises(ProtocolError) as caught:
                open_assign(junk, NET_ID, verify_signature)
            assert caught.value.code == code


# --- numbering and direction ---------------------------------------------------------------------


@given(st.lists(frames, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_frames_come_out_in_order_with_contiguous_numbers_whatever_n_they_were_given(
    sent: list[Frame],
) -> None:
    source, target = writer(), reader(allowed=frozenset(Kind))
    n = 0
    for frame in sent:
        if target.ended and not isinstance(frame, Ack):
            assert (
                refused(target, forge(7, encode_payload(Progress(n, FRAMES["progress"].phase, 0, 0))))
                == "order"
            )  # type: ignore[union-attr]
            continue
        assert target.decode(item(frame, source)) == replace(frame, n=n)
        n += not isinstance(frame, Ack)
    assert source.next_n == target.next_n == n


def test_a_gap_a_repetition_and_a_step_back_are_refused() -> None:
    source, target = writer(), reader()
    items = [item(FRAMES["progress"], source) for _ in range(4)]
    target.decode(items[0])
    assert refused(target, items[2]) == "order"
    assert refused(target, items[0]) == "order"
    target.decode(items[1])
    assert refused(target, items[1]) == "order"
    target.decode(items[2])


@pytest.mark.parametrize("name", ["reject", "complete", "error"])
def test_after_a_terminal_frame_its_sender_only_acks(name: str) -> None:
    source, target = writer(), reader(allowed=WITH_ACK)
    target.decode(item(FRAMES[name], source))
    assert target.ended
    with pytest.raises(ProtocolError) as caught:
        source.encode(FRAMES["progress"])
    assert caught.value.code == "order"
    assert refused(target, item(FRAMES["progress"], writer(start_n=1))) == "order"
    assert refused(target, item(FRAMES[name], writer(start_n=1))) == "order"
    assert refused(target, forge(77, msgpack.packb([1]))) == "order"
    assert target.decode(item(Ack(0, 9), source)) == Ack(1, 9)


def test_each_side_sends_only_its_own_kinds() -> None:
    assert {Kind.CANCEL} == REQUESTER_KINDS
    for name, frame in FRAMES.items():
        data = item(frame, writer())
        if name.startswith(("ack", "cancel")):
            assert refused(reader(), data) == "kind"
        else:
            assert refused(reader(allowed=REQUESTER_KINDS), data) == "kind"
            assert reader().decode(data) == frame
    assert TERMINAL_KINDS < WORKER_KINDS


def test_an_ack_carries_the_next_number_and_uses_none_up() -> None:
    source, target = writer(), reader(allowed=WITH_ACK)
    target.decode(item(FRAMES["progress"], source))
    for next_n in (3, 4):
        assert target.decode(item(Ack(77, next_n), source)) == Ack(1, next_n)
    assert target.decode(item(FRAMES["token"], source)) == replace(FRAMES["token"], n=1)
    assert refused(target, forge(Kind.ACK, encode_payload(Ack(5, 0)))) == "order"


def test_an_unknown_kind_with_a_good_signature_uses_its_number_and_is_skipped() -> None:
    target = reader()
    assert target.decode(forge(14, msgpack.packb([0, "later", [1.5, None]]))) is None
    assert target.decode(forge(255, msgpack.packb([1]))) is None
    assert target.next_n == 2
    assert target.decode(item(FRAMES["token"], writer(start_n=2))) == replace(FRAMES["token"], n=2)


def test_an_unknown_kind_keeps_the_rules_that_are_known() -> None:
    target = reader()
    assert refused(target, forge(14, msgpack.packb([1]))) == "order"
    assert refused(target, forge(14, msgpack.packb([]))) == "malformed"
    assert refused(target, forge(14, msgpack.packb(["0"]))) == "malformed"
    assert refused(target, forge(14, msgpack.packb([0, {}]))) == "malformed"
    assert refused(target, forge(14, msgpack.packb([0, [0] * 65]))) == "malformed"
    assert refused(target, forge(14, msgpack.packb([0]) + b"\xc0")) == "malformed"
    assert refused(target, forge(14, msgpack.packb([0]), context=bytes(32))) == "signature"


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, 13])
def test_envelope_kinds_are_no_frames(kind: int) -> None:
    assert refused(reader(), forge(kind, msgpack.packb([0]))) == "kind"


# --- binding -------------------------------------------------------------------------------------


def test_a_frame_of_another_attempt_or_of_another_key_does_not_verify() -> None:
    other = encode_assign(replace(ASSIGN, attempt=2), REQUESTER, NET_ID)[1]
    assert refused(reader(), item(FRAMES["token"], writer(context=other))) == "signature"
    assert refused(reader(), item(FRAMES["token"], FrameWriter(CONTEXT, REQUESTER))) == "signature"


def test_no_bit_of_a_frame_can_change_unnoticed() -> None:
    good = item(FRAMES["token_logprobs"], writer())
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << position % 8
        assert refused(reader(), bytes(changed)) in {"signature", "malformed", "kind"}


def test_a_frame_is_an_array_of_exactly_three_in_its_shortest_form() -> None:
    kind, payload, signature = msgpack.unpackb(item(FRAMES["token"], writer()))
    sig = b"\xc4\x40" + signature
    body = b"\xc4" + bytes([len(payload)]) + payload
    assert reader().decode(b"\x93" + bytes([kind]) + body + sig) == FRAMES["token"]
    for junk in (
        b"",
        b"\x92" + bytes([kind]) + body,
        b"\x94" + bytes([kind]) + body + sig + b"\xc0",
        b"\x93" + bytes([kind]) + body + sig + b"\xc0",
        b"\xdc\x00\x03" + bytes([kind]) + body + sig,
        b"\x93\xcc" + bytes([kind]) + body + sig,
        b"\x93" + bytes([kind]) + b"\xc5\x00" + body[1:] + sig,
        b"\x93" + bytes([kind]) + body + b"\xc5\x00" + sig[1:],
        b"\x93" + bytes([kind]) + body + b"\xc4\x3f" + signature[:63],
    ):
        assert refused(reader(), junk) == "malformed"


# --- sizes ---------------------------------------------------------------------------------------


def token_of(size: int) -> Token:
    return Token(0, 0, (), ("x" * size,))


def test_a_frame_of_exactly_its_cap_travels_and_one_byte_more_is_not_sent() -> None:
    overhead = len(item(token_of(60_000), writer())) - 60_000
    largest = token_of(limits.MAX_FRAME_BYTES - overhead)
    source = writer()
    data = item(largest, source)
    assert len(data) == limits.MAX_FRAME_BYTES
    assert reader().decode(data) == largest
    for more in (1, 100, 70_000):
        with pytest.raises(ProtocolError) as caught:
            source.encode(token_of(limits.MAX_FRAME_BYTES - overhead + more))
        assert caught.value.code == "oversize"
    assert source.next_n == 1  # a frame that was refused uses no number up
    assert refused(reader(), data + b"\0") == "oversize"


def test_a_refused_message_uses_no_number_up() -> None:
    source = writer()
    with pytest.raises(ProtocolError):
        source.encode(Token(0, 0, (), ()))
    assert reader().decode(item(FRAMES["token"], source)) == FRAMES["token"]


# --- cutting a stream into items -----------------------------------------------------------------


def stream_of(sizes: list[int]) -> tuple[list[bytes], bytes]:
    items = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    return items, b"".join(map(prefixed, items))


@given(st.lists(st.integers(1, 300), max_size=12), st.data())
@settings(max_examples=150, deadline=None)
def test_items_come_out_whole_however_the_stream_is_cut(sizes: list[int], data: st.DataObject) -> None:
    items, stream = stream_of(sizes)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    splitter, found = ItemSplitter(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:end])
    assert found == items
    assert splitter.pending == 0


def test_a_stream_that_was_cut_inside_an_item_leaves_bytes_pending() -> None:
    _, stream = stream_of([10, 10])
    for size in range(len(stream)):
        splitter = ItemSplitter()
        taken = sum(len(prefixed(found)) for found in splitter.feed(stream[:size]))
        assert splitter.pending == size - taken


@pytest.mark.parametrize(
    ("first_cap", "sizes", "good"),
    [
        (limits.MAX_ASSIGN_BYTES, [limits.MAX_ASSIGN_BYTES], True),
        (limits.MAX_ASSIGN_BYTES, [limits.MAX_ASSIGN_BYTES + 1], False),
        (limits.MAX_ASSIGN_BYTES, [1, limits.MAX_FRAME_BYTES], True),
        (limits.MAX_ASSIGN_BYTES, [1, limits.MAX_FRAME_BYTES + 1], False),
        (limits.MAX_FRAME_BYTES, [limits.MAX_FRAME_BYTES], True),
        (limits.MAX_FRAME_BYTES, [limits.MAX_FRAME_BYTES + 1], False),
        (limits.MAX_ASSIGN_BYTES, [0], False),
        (limits.MAX_ASSIGN_BYTES, [5, 0], False),
    ],
)
def test_the_caps_of_the_first_and_of_later_items_count_the_prefix_alone(
    first_cap: int, sizes: list[int], good: bool
) -> None:
    items, stream = stream_of(sizes)
    splitter = ItemSplitter(first_cap)
    if good:
        assert splitter.feed(stream) == items
        return
    prefix_end = len(stream) - sizes[-1]  # nothing of the bad item itself is needed
    assert [found for i in range(prefix_end - 1) for found in splitter.feed(stream[i : i + 1])] == items[:-1]
    with pytest.raises(ProtocolError) as caught:
        splitter.feed(stream[prefix_end - 1 : prefix_end])
    assert caught.value.code == ("oversize" if sizes[-1] else "malformed")
    assert splitter.pending == 0


def test_good_items_before_a_bad_length_are_never_lost() -> None:
    items, stream = stream_of([10, 20])
    splitter = ItemSplitter()
    assert splitter.feed(stream + b"\xff\xff\xff\xff" + bytes(100)) == items
    for _ in range(2):
        with pytest.raises(ProtocolError):
            splitter.feed(b"")
    assert splitter.pending == 0


def test_the_whole_of_an_attempt_passes_through_one_byte_at_a_time() -> None:
    data, context = encode_assign(ASSIGN, REQUESTER, NET_ID)
    source = FrameWriter(context, WORKER)
    sent = [FRAMES["progress_facts"], FRAMES["token"], FRAMES["token_logprobs"], FRAMES["complete"]]
    stream = b"".join(source.encode(frame) for frame in sent)
    splitter, target, got = ItemSplitter(limits.MAX_FRAME_BYTES), reader(context), []
    for i in range(len(stream)):
        got += [target.decode(found) for found in splitter.feed(stream[i : i + 1])]
    assert got == [replace(frame, n=n) for n, frame in enumerate(sent)]
    assert target.ended
    requester, worker_side = FrameWriter(context, REQUESTER), ItemSplitter()
    assert worker_side.feed(data + requester.encode(Cancel(9, "user"))) != []


def test_every_frame_class_is_covered_here() -> None:
    assert {type(frame) for frame in FRAMES.values()} == {
        Reject,
        Progress,
        Token,
        Ack,
        Complete,
        Error,
        Cancel,
    }
