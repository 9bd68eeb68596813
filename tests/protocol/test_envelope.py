"""Envelopes: one encoding, signed for one network, capped before anybody hears them."""

from __future__ import annotations

import copy
import pickle
import struct
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol import limits
from llama_gossip.protocol.codec import encode_payload
from llama_gossip.protocol.envelope import (
    KeySigner,
    check_author,
    decode_envelope,
    envelope_signed_bytes,
    envelope_tag,
    fit_announce,
    read_head,
    sign_envelope,
    signed_bytes_of_tag,
    split_envelope,
    verify_envelope,
    verify_signature,
)
from llama_gossip.protocol.messages import (
    Announce,
    Claim,
    EnvelopeMessage,
    Head,
    Kind,
    Leave,
    NodeId,
    RawPrompt,
    Request,
)
from llama_gossip.protocol.network import net_id, open_secret, topic_id
from tests.protocol.wire_samples import ENVELOPES, LEAVE, NET_ID, OFFER, REQUESTER, WORKER, head
from tests.protocol.wire_strategies import envelopes

BIG = limits.MAX_ASSIGN_BYTES


def split_refused(data: bytes, cap: int = BIG) -> str:
    with pytest.raises(ProtocolError) as caught:
        split_envelope(data, cap)
    return caught.value.code


def fields_of(message: EnvelopeMessage) -> list[object]:
    data = sign_envelope(message, REQUESTER, NET_ID)
    return list(msgpack.unpackb(data))


# --- there and back ------------------------------------------------------------------------------


@given(envelopes)
@settings(max_examples=150, deadline=None)
def test_a_signed_envelope_opens_to_its_message_and_verifies(message: EnvelopeMessage) -> None:
    raw = split_envelope(sign_envelope(message, WORKER, NET_ID), BIG)
    assert raw.sender == WORKER.node_id
    assert raw.head == message.head
    assert verify_envelope(raw, NET_ID, verify_signature)
    assert decode_envelope(raw) == message


def test_the_tag_of_a_transcript_is_enough_to_check_a_signature_without_the_network() -> None:
    raw = split_envelope(sign_envelope(LEAVE, WORKER, NET_ID), BIG)
    tag = envelope_tag(raw.kind, raw.sender, raw.payload, NET_ID)
    assert verify_signature(
        raw.sender, signed_bytes_of_tag(raw.kind, raw.sender, raw.payload, tag), raw.signature
    )
    forged = bytes([tag[0] ^ 1]) + tag[1:]
    assert not verify_signature(
        raw.sender, signed_bytes_of_tag(raw.kind, raw.sender, raw.payload, forged), raw.signature
    )


@pytest.mark.parametrize("name", ENVELOPES)
def test_no_bit_of_an_envelope_can_change_unnoticed(name: str) -> None:
    data = sign_envelope(ENVELOPES[name], WORKER, NET_ID)
    for position in range(0, len(data), 3):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        try:
            raw = split_envelope(bytes(changed), BIG)
        except ProtocolError:
            continue
        assert not verify_envelope(raw, NET_ID, verify_signature)


def test_an_envelope_of_another_network_does_not_verify() -> None:
    other = net_id(open_secret("another"))
    raw = split_envelope(sign_envelope(LEAVE, WORKER, other), BIG)
    assert verify_envelope(raw, other, verify_signature)
    assert not verify_envelope(raw, NET_ID, verify_signature)


def test_an_envelope_in_the_name_of_another_key_does_not_verify() -> None:
    fields = fields_of(LEAVE)
    fields[2] = WORKER.node_id
    assert not verify_envelope(split_envelope(msgpack.packb(fields), BIG), NET_ID, verify_signature)


def test_the_same_payload_as_another_kind_does_not_verify() -> None:
    fields = fields_of(LEAVE)
    fields[1] = int(Kind.ANNOUNCE)
    assert not verify_envelope(split_envelope(msgpack.packb(fields), BIG), NET_ID, verify_signature)


# --- the outer array -----------------------------------------------------------------------------


def test_the_outer_array_has_exactly_five_elements() -> None:
    fields = fields_of(LEAVE)
    assert split_refused(msgpack.packb(fields[:4])) == "malformed"
    assert split_refused(msgpack.packb([*fields, None])) == "malformed"
    assert split_refused(msgpack.packb({1: 2})) == "malformed"
    assert split_refused(b"") == "malformed"


def test_nothing_may_follow_an_envelope_and_none_may_be_cut() -> None:
    data = sign_envelope(LEAVE, REQUESTER, NET_ID)
    assert split_refused(data + b"\0") == "malformed"
    for size in range(len(data)):
        assert split_refused(data[:size]) == "malformed"


def test_an_envelope_that_is_not_in_its_shortest_form_is_refused() -> None:
    version, kind, sender, payload, signature = fields_of(LEAVE)
    assert isinstance(payload, bytes)
    assert isinstance(sender, bytes)
    assert isinstance(signature, bytes)
    array, one, two = b"\x95", bytes([version]), bytes([kind])  # type: ignore[list-item]
    from_, body, sig = (
        b"\xc4\x20" + sender,
        b"\xc4" + bytes([len(payload)]) + payload,
        b"\xc4\x40" + signature,
    )
    good = array + one + two + from_ + body + sig
    assert good == sign_envelope(LEAVE, REQUESTER, NET_ID)
    variants = [
        b"\xdc\x00\x05" + one + two + from_ + body + sig,
        b"\xdd\x00\x00\x00\x05" + one + two + from_ + body + sig,
        array + b"\xcc\x01" + two + from_ + body + sig,
        array + b"\xd0\x01" + two + from_ + body + sig,
        array + one + b"\xcc\x02" + from_ + body + sig,
        array + one + b"\xcd\x00\x02" + from_ + body + sig,
        array + one + two + b"\xc5\x00\x20" + sender + body + sig,
        array + one + two + from_ + b"\xc5" + struct.pack(">H", len(payload)) + payload + sig,
        array + one + two + from_ + b"\xc6" + struct.pack(">I", len(payload)) + payload + sig,
        array + one + two + from_ + body + b"\xc5\x00\x40" + signature,
        array + one + two + b"\xd9\x20" + sender + body + sig,  # a text, not bytes
    ]
    for data in variants:
        assert split_refused(data) == "malformed"


@pytest.mark.parametrize("size", [31, 255, 256, 65_535, 65_536])
def test_the_shortest_form_of_a_payload_is_kept_at_each_change_of_width(size: int) -> None:
    payload = b"\x94\x01\x02\x03" + b"x" * (size - 4)  # a head, and then whatever
    data = msgpack.packb([1, 2, bytes(32), payload, bytes(64)])
    assert split_envelope(data, BIG).payload == payload


def test_a_key_or_signature_of_another_size_is_refused() -> None:
    for index, size in ((2, 31), (2, 33), (4, 63), (4, 65), (4, 0)):
        fields = fields_of(LEAVE)
        fields[index] = bytes(size)
        assert split_refused(msgpack.packb(fields)) == "malformed"


@pytest.mark.parametrize("version", [0, 2, 127, 128, 255])
def test_another_version_is_told_apart_from_junk(version: int) -> None:
    assert split_refused(msgpack.packb([version, *fields_of(LEAVE)[1:]])) == "version"


@pytest.mark.parametrize("kind", [0, *range(6, 13), 14, 15, 127, 128, 255])
def test_a_kind_that_no_envelope_has_is_told_apart_from_junk(kind: int) -> None:
    fields = fields_of(LEAVE)
    fields[1] = kind
    assert split_refused(msgpack.packb(fields)) == "kind"


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_split_or_raise_a_protocol_error(data: bytes) -> None:
    for candidate in (data, b"\x95\x01\x02\xc4\x20" + bytes(32) + data):
        try:
            raw = split_envelope(candidate, BIG)
        except ProtocolError:
            continue
        again = msgpack.packb([1, int(raw.kind), raw.sender, raw.payload, raw.signature])
        assert again == candidate  # what is taken has one encoding


# --- the head ------------------------------------------------------------------------------------


def test_the_head_is_read_at_its_widest_from_32_bytes() -> None:
    payload = b"\xdd\x00\x00\x00\x04" + b"".join(b"\xcf" + struct.pack(">Q", 2**64 - i) for i in (1, 2, 3))
    assert len(payload) == limits.HEAD_BYTES
    assert read_head(payload + b"\xa0") == Head(2**64 - 1, 2**64 - 2, 2**64 - 3)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x92\x01\x02",
        b"\x93\x01\x02",
        b"\x93\x01\x02\xff",
        b"\x93\x01\x02\xc0",
        b"\x93\x01\xc3\x03",
        b"\x93\xca\x3f\x80\x00\x00\x02\x03",
        b"\x93\x01\x02\xd0\xff",
        b"\x83\x01\x02\x03",
        b"\xdc\x00",
        b"\xdc\x00\x41\x01\x02\x03",
        b"\xc4\x03\x01\x02\x03",
    ],
    ids=bytes.hex,
)
def test_a_payload_without_a_head_is_refused_before_its_signature(payload: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_head(payload)
    assert caught.value.code == "malformed"
    fields = fields_of(LEAVE)
    fields[3] = payload
    assert split_refused(msgpack.packb(fields)) == "malformed"


# --- caps ----------------------------------------------------------------------------------------


def grown(message: EnvelopeMessage, field: str, cap: int, delta: int) -> EnvelopeMessage:
    """`message` whose text field makes its envelope exactly cap + delta bytes long."""
    size = len(sign_envelope(message, REQUESTER, NET_ID))
    text = getattr(message, field)
    for extra in range(cap + delta - size - 8, cap + delta - size + 1):
        longer = text + "x" * extra if isinstance(text, str) else RawPrompt(text.text + "x" * extra)
        candidate = replace(message, **{field: longer})  # type: ignore[arg-type]
        fields = 1, 2, bytes(32), encode_payload(candidate), bytes(64)
        if len(msgpack.packb(fields)) == cap + delta:
            return candidate
    raise AssertionError("no text makes an envelope of this size")


@pytest.mark.parametrize(
    ("message", "field", "cap"),
    [
        (LEAVE, "reason", limits.MAX_CONTROL_BYTES),
        (ENVELOPES["request"], "model", limits.MAX_CONTROL_BYTES),
        (ENVELOPES["claim"], "numerics_id", limits.MAX_CONTROL_BYTES),
        (ENVELOPES["request_public"], "prompt", limits.MAX_TOPIC_BYTES),
        (
            replace(ENVELOPES["assign"], prompt=RawPrompt("x" * 70_000)),  # type: ignore[arg-type]
            "prompt",
            limits.MAX_ASSIGN_BYTES,
        ),
    ],
    ids=["leave", "request", "claim", "public request", "assign"],
)
def test_an_envelope_of_exactly_its_cap_is_signed_and_one_byte_more_is_refused(
    message: EnvelopeMessage, field: str, cap: int
) -> None:
    data = sign_envelope(grown(message, field, cap, 0), REQUESTER, NET_ID)
    assert len(data) == cap
    assert split_envelope(data, cap).data == data
    assert split_refused(data, cap - 1) == "oversize"
    with pytest.raises(ProtocolError) as caught:
        sign_envelope(grown(message, field, cap, 1), REQUESTER, NET_ID)
    assert caught.value.code == "oversize"
    assert caught.value.hint


def announce_of(models: int) -> Announce:
    announce = ENVELOPES["announce"]
    assert isinstance(announce, Announce)
    offers = tuple(
        replace(OFFER, name=f"model-{i:03}-{'x' * 30}", quantisation="q" * 40) for i in range(models)
    )
    return replace(announce, capacity=replace(announce.capacity, models=offers))


def test_an_announce_that_is_too_large_loses_models_from_the_end_and_nothing_else() -> None:
    announce = announce_of(100)
    fitted = fit_announce(announce)
    kept = fitted.capacity.models
    assert 0 < len(kept) < limits.MAX_ANNOUNCED_MODELS
    assert kept == announce.capacity.models[: len(kept)]
    assert replace(fitted, capacity=announce.capacity) == announce
    data = sign_envelope(announce, WORKER, NET_ID)
    assert decode_envelope(split_envelope(data, limits.MAX_CONTROL_BYTES)) == fitted
    one_more = replace(
        announce, capacity=replace(announce.capacity, models=announce.capacity.models[: len(kept) + 1])
    )
    assert fit_announce(one_more) == fitted


def test_an_announce_that_is_too_large_loses_its_hints_before_any_model() -> None:
    models = fit_announce(announce_of(100)).capacity.models
    announce = announce_of(len(models))
    hints = tuple(bytes((n,)) * 8 for n in range(limits.MAX_CONVERSATION_MARKS))
    assert fit_announce(replace(announce, conversations=hints)) == announce
    small = replace(announce_of(3), conversations=hints)
    assert fit_announce(small) == small


def test_an_announce_that_fits_stays_as_it_is() -> None:
    announce = announce_of(3)
    assert fit_announce(announce) is announce or fit_announce(announce) == announce


def test_an_announce_that_cannot_fit_even_without_models_is_refused() -> None:
    announce = announce_of(2)
    with pytest.raises(ProtocolError) as caught:
        fit_announce(replace(announce, capacity=replace(announce.capacity, device="d" * 4000)))
    assert caught.value.code == "oversize"


# --- authors, keys, networks ---------------------------------------------------------------------


def test_a_request_or_claim_speaks_for_its_signer_only() -> None:
    request, claim = ENVELOPES["request"], ENVELOPES["claim"]
    assert isinstance(request, Request)
    assert isinstance(claim, Claim)
    check_author(request, request.requester)
    check_author(claim, claim.worker)
    for message, stranger in ((request, WORKER.node_id), (claim, REQUESTER.node_id)):
        with pytest.raises(ProtocolError) as caught:
            check_author(message, stranger)
        assert caught.value.code == "author"


def test_a_seed_shows_in_no_repr_and_is_never_copied() -> None:
    seed = bytes(range(32))
    signer = KeySigner(seed)
    assert seed.hex() not in repr(signer)
    assert repr(seed) not in repr(signer)
    assert signer.node_id.hex()[:10] in repr(signer)
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copier(signer)
    with pytest.raises(ValueError):
        KeySigner(seed[:31])


def test_verifying_never_raises_whatever_the_sizes() -> None:
    message = b"message"
    signature = WORKER.sign(message)
    assert verify_signature(WORKER.node_id, message, signature)
    assert not verify_signature(WORKER.node_id, message, signature[:-1])
    assert not verify_signature(WORKER.node_id, message, signature + b"\0")
    assert not verify_signature(WORKER.node_id, message, b"")
    assert not verify_signature(NodeId(WORKER.node_id[:-1]), message, signature)
    assert not verify_signature(NodeId(b""), message, signature)
    assert not verify_signature(WORKER.node_id, b"", signature)
    assert not verify_signature(REQUESTER.node_id, message, signature)
    assert verify_signature(WORKER.node_id, b"", WORKER.sign(b""))


def test_signed_strings_of_both_forms_and_all_labels_are_disjoint_and_long() -> None:
    signed = envelope_signed_bytes(2, WORKER.node_id, encode_payload(Leave(head(0), "")), NET_ID)
    assert signed.startswith(b"llama-gossip/v1/envelope\0")
    assert len(signed) >= 90


def test_a_network_is_its_secret_and_an_open_one_its_name_as_given() -> None:
    a, b = open_secret("llamas"), open_secret("Llamas")
    assert len({a, b, topic_id(a), topic_id(b), net_id(a), net_id(b)}) == 6
    assert {len(x) for x in (a, topic_id(a), net_id(a))} == {32}
    for wrong in (b"", a[:31], a + b"\0"):
        with pytest.raises(ValueError):
            topic_id(wrong)
        with pytest.raises(ValueError):
            net_id(wrong)
