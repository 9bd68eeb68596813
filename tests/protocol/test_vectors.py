"""The golden vectors: what is checked in is what the code makes, and what the protocol's text says."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgpack
import pytest
from nacl.encoding import RawEncoder
from nacl.hash import blake2b
from nacl.signing import SigningKey, VerifyKey

from llama_gossip.protocol.envelope import decode_envelope, split_envelope, verify_envelope, verify_signature
from llama_gossip.protocol.frames import FrameReader, open_assign
from llama_gossip.protocol.messages import Kind, NodeId
from tests.protocol.make_vectors import PATH, vectors
from tests.protocol.wire_samples import ENVELOPES, FRAMES, NET_ID, REQUESTER

GOLDEN: dict[str, Any] = json.loads(PATH.read_text())
ENVELOPE_VECTORS = [pytest.param(v, id=v["name"]) for v in GOLDEN["envelopes"]]
FRAME_VECTORS = [pytest.param(v, id=v["name"]) for v in GOLDEN["frames"]]
CONTEXT = bytes.fromhex(GOLDEN["attempt"]["context"])


def hashed(data: bytes, key: bytes = b"") -> bytes:
    """BLAKE2b-256 by libsodium, not by the library the code uses."""
    return blake2b(data, digest_size=32, key=key, encoder=RawEncoder)


def test_the_vectors_checked_in_are_what_the_code_makes_from_the_fixed_seeds() -> None:
    assert vectors() == GOLDEN


def test_every_kind_of_version_1_has_a_vector() -> None:
    kinds = {v["kind"] for v in GOLDEN["envelopes"]} | {v["kind"] for v in GOLDEN["frames"]}
    assert kinds == {int(kind) for kind in Kind}


def test_the_network_ids_are_keyed_hashes_of_their_labels() -> None:
    network = GOLDEN["network"]
    secret = bytes.fromhex(network["secret"])
    assert hashed(b"llama-gossip/v1/topic", secret).hex() == network["topic_id"]
    assert hashed(b"llama-gossip/v1/net", secret).hex() == network["net_id"]
    name = network["open_name"].encode()
    assert hashed(b"llama-gossip/v1/open\0" + name).hex() == network["open_secret"]


def test_the_node_ids_are_the_public_keys_of_the_seeds() -> None:
    keys = GOLDEN["keys"]
    for role in ("requester", "worker"):
        assert SigningKey(bytes.fromhex(keys[f"{role}_seed"])).verify_key.encode().hex() == keys[role]


@pytest.mark.parametrize("vector", ENVELOPE_VECTORS)
def test_an_envelope_is_laid_out_tagged_and_signed_as_the_text_says(vector: dict[str, Any]) -> None:
    version, kind, sender, payload, signature = msgpack.unpackb(bytes.fromhex(vector["envelope"]))
    assert (version, kind, sender.hex(), payload.hex()) == (
        1,
        vector["kind"],
        vector["from"],
        vector["payload"],
    )
    head = bytes([1, kind]) + sender
    tag = hashed(head + payload, NET_ID)
    assert tag.hex() == vector["tag"]
    signed = b"llama-gossip/v1/envelope\0" + head + tag + payload
    assert signed.hex() == vector["signed"]
    assert len(signed) >= 90
    VerifyKey(sender).verify(signed, signature)


@pytest.mark.parametrize("vector", ENVELOPE_VECTORS)
def test_an_envelope_vector_opens_to_its_message(vector: dict[str, Any]) -> None:
    raw = split_envelope(bytes.fromhex(vector["envelope"]), 2**20)
    assert verify_envelope(raw, NET_ID, verify_signature)
    assert decode_envelope(raw) == ENVELOPES[vector["name"]]
    assert raw.head == ENVELOPES[vector["name"]].head


@pytest.mark.parametrize("vector", FRAME_VECTORS)
def test_a_frame_is_prefixed_bound_and_signed_as_the_text_says(vector: dict[str, Any]) -> None:
    stream = bytes.fromhex(vector["stream"])
    assert struct.unpack(">I", stream[:4]) == (len(stream) - 4,)
    kind, payload, signature = msgpack.unpackb(stream[4:])
    assert (kind, payload.hex()) == (vector["kind"], vector["payload"])
    sender = bytes.fromhex(vector["from"])
    signed = b"llama-gossip/v1/frame\0" + CONTEXT + sender + bytes([kind]) + payload
    assert signed.hex() == vector["signed"]
    assert len(signed) >= 90
    VerifyKey(sender).verify(signed, signature)


@pytest.mark.parametrize("vector", FRAME_VECTORS)
def test_a_frame_vector_opens_to_its_message(vector: dict[str, Any]) -> None:
    peer = NodeId(bytes.fromhex(vector["from"]))
    reader = FrameReader(CONTEXT, peer, verify_signature, frozenset({Kind(vector["kind"])}))
    assert reader.decode(bytes.fromhex(vector["stream"])[4:]) == FRAMES[vector["name"]]


def test_the_context_is_the_hash_of_the_whole_string_that_the_assign_signs() -> None:
    signed = next(v["signed"] for v in GOLDEN["envelopes"] if v["name"] == "assign")
    assert hashed(bytes.fromhex(signed)) == CONTEXT
    item = bytes.fromhex(GOLDEN["attempt"]["assign_stream"])[4:]
    assign, sender, context, tag = open_assign(item, NET_ID, verify_signature)
    assert (assign, sender, context) == (ENVELOPES["assign"], REQUESTER.node_id, CONTEXT)
    assert tag.hex() == next(v["tag"] for v in GOLDEN["envelopes"] if v["name"] == "assign")


@pytest.mark.parametrize("vector", ENVELOPE_VECTORS + FRAME_VECTORS)
def test_every_number_and_length_of_a_payload_is_in_its_shortest_form(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["payload"])
    assert msgpack.packb(msgpack.unpackb(payload), use_bin_type=True) == payload
