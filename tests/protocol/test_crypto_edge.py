"""Signatures at the edges of ed25519: PyNaCl's verdict is the protocol's, the Rust stack is held against it.

Seen so far (PyNaCl 1.6.2, iroh 1.4.1): the two agree on every vector here and on the 924 published ones that
the vectors were modelled on. KNOWN_DIFFERENCES is the place for a version that does not.
"""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip import _native
from llama_gossip.protocol.codec import encode_payload
from llama_gossip.protocol.envelope import (
    KeySigner,
    envelope_signed_bytes,
    split_envelope,
    verify_envelope,
    verify_signature,
)
from llama_gossip.protocol.limits import MAX_CONTROL_BYTES
from llama_gossip.protocol.messages import Kind, NodeId
from tests.protocol.make_ed25519_edges import BASE, PATH, encode, scalar_of, times, vectors
from tests.protocol.wire_samples import LEAVE, NET_ID

EDGES: list[dict[str, Any]] = json.loads(PATH.read_text())

# what -> the Rust verdict, where it is not PyNaCl's. A difference never matters between our nodes: only
# PyNaCl judges envelopes and frames.
KNOWN_DIFFERENCES: dict[str, bool] = {}


def parts(edge: dict[str, Any]) -> tuple[NodeId, bytes, bytes]:
    return NodeId(bytes.fromhex(edge["key"])), bytes.fromhex(edge["msg"]), bytes.fromhex(edge["sig"])


def test_the_edge_vectors_checked_in_are_what_the_arithmetic_makes() -> None:
    assert vectors() == EDGES


def test_the_edges_cover_what_verifiers_disagree_about() -> None:
    assert sum(edge["accept"] for edge in EDGES) >= 3
    exact_but_refused = [edge["what"] for edge in EDGES if edge["exact"] and not edge["accept"]]
    for kind in ("key order 1,", "key order 8,", "key y=p+1;", "S + L", "R neutral", "R order 8"):
        assert any(kind in what for what in exact_but_refused), kind
    assert any("only with the cofactor" in edge["what"] for edge in EDGES)


@pytest.mark.parametrize("edge", [pytest.param(edge, id=edge["what"]) for edge in EDGES])
def test_pynacl_accepts_exactly_what_the_rule_accepts(edge: dict[str, Any]) -> None:
    assert verify_signature(*parts(edge)) is edge["accept"]


def test_the_rust_verifier_differs_from_pynacl_only_where_it_is_documented() -> None:
    differences = {}
    for edge in EDGES:
        rust = _native.verify(*parts(edge))
        if rust is not verify_signature(*parts(edge)):
            differences[edge["what"]] = rust
    assert differences == KNOWN_DIFFERENCES


def test_an_envelope_forged_under_a_small_order_key_is_refused() -> None:
    """Without the check of the key anybody can sign for it: with A neutral, R = r·B and S = r always hold."""
    neutral = NodeId(encode((0, 1)))
    r = scalar_of("forgery")
    signature = encode(times(r, BASE)) + r.to_bytes(32, "little")
    payload = encode_payload(LEAVE)
    raw = split_envelope(msgpack.packb([1, int(Kind.LEAVE), neutral, payload, signature]), MAX_CONTROL_BYTES)
    assert not verify_envelope(raw, NET_ID, verify_signature)
    assert not _native.verify(neutral, envelope_signed_bytes(2, neutral, payload, NET_ID), signature)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_both_stacks_derive_the_same_key_and_make_the_same_signature(seed: bytes, message: bytes) -> None:
    signer = KeySigner(seed)
    assert signer.node_id == _native.public_key(seed)
    signature = signer.sign(message)
    assert signature == _native.sign(seed, message)
    assert verify_signature(signer.node_id, message, signature)
    assert _native.verify(signer.node_id, message, signature)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 96 * 8 - 1), st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_both_stacks_judge_a_flipped_bit_alike(seed: bytes, bit: int, message: bytes) -> None:
    signer = KeySigner(seed)
    changed = bytearray(signer.node_id + signer.sign(message))
    changed[bit // 8] ^= 1 << bit % 8
    key, signature = NodeId(bytes(changed[:32])), bytes(changed[32:])
    assert verify_signature(key, message, signature) is False
    assert _native.verify(key, message, signature) is False
