"""The seal and the body it closes: golden vectors, and what must not open."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
from nacl.encoding import RawEncoder
from nacl.hash import blake2b

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.limits import MAX_BODY_BYTES, MAX_GOSSIP_ITEM_BYTES, PAD_BYTES
from llama_gossip.protocol.messages import NodeId, RequestId
from llama_gossip.protocol.seal import About, SealKeys, public_key, shared_point
from llama_gossip.protocol.tunnel_body import pack_items, unpack_items
from tests.protocol.make_seal_vectors import PATH, vectors
from tests.protocol.wire_samples import NET_ID, REQUESTER, WORKER, head

GOLDEN: dict[str, Any] = json.loads(PATH.read_text())
SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
LOW_ORDER = [  # the points whose product with any secret is known to everybody
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
ABOUT = About(NET_ID, REQUESTER.node_id, WORKER.node_id, RequestId(bytes(16)), 1)


def keys(dh: bytes = SECRET, epk: bytes = SECRET, prekey: bytes = OTHER, about: About = ABOUT) -> SealKeys:
    return SealKeys(dh, epk=epk, prekey=prekey, about=about)


def refused(code: str, action: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        action()
    assert caught.value.code == code


P = 2**255 - 19


def ladder(secret: bytes, point: bytes) -> bytes:
    """X25519 as RFC 7748 tells it, slowly."""
    number = int.from_bytes(secret, "little") & ~7 & ((1 << 255) - 1) | 1 << 254
    x1 = int.from_bytes(point, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in reversed(range(255)):
        if number >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121_665 * e) % P
        if number >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def test_the_vectors_checked_in_are_what_the_code_makes() -> None:
    assert vectors() == GOLDEN


@pytest.mark.parametrize("packet", GOLDEN["packets"], ids=["to the worker", "back"])
def test_a_sealed_body_is_what_the_text_says_by_other_code(
    packet: dict[str, Any],
) -> None:
    prekey, epk = bytes.fromhex(GOLDEN["prekey"]), bytes.fromhex(GOLDEN["epk"])
    dh = ladder(bytes.fromhex(GOLDEN["ephemeral_secret"]), prekey)
    assert dh.hex() == GOLDEN["dh"]
    request = bytes.fromhex(GOLDEN["request_id"]) + GOLDEN["attempt"].to_bytes(4, "big")
    requester, worker = REQUESTER.node_id, WORKER.node_id
    bound = dh + epk + prekey + requester + worker + request
    key = blake2b(bound, digest_size=64, person=b"lg1-seal", encoder=RawEncoder)
    half, parties = (key[:32], requester + worker) if packet["to_worker"] else (key[32:], worker + requester)
    nonce = packet["boot"].to_bytes(8, "big") + packet["seq"].to_bytes(8, "big") + bytes(8)
    associated = b"llama-gossip/v1/seal\0" + NET_ID + parties + request
    sealed = bytes.fromhex(packet["sealed"])
    body = crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, associated, nonce, half)
    assert body.hex() == packet["body"]
    assert nonce.hex() == packet["nonce"]
    items = [bytes.fromhex(item) for item in packet["items"]]
    plain = b"".join(len(item).to_bytes(4, "big") + item for item in items) + bytes(4)
    assert body == plain + bytes(-len(plain) % 256)


def test_both_sides_come_to_the_same_keys() -> None:
    dh = shared_point(SECRET, public_key(OTHER))
    assert dh == shared_point(OTHER, public_key(SECRET))
    sealed = keys(dh).seal(b"hello", head(1), to_worker=True)
    assert keys(dh).open(sealed, head(1), to_worker=True) == b"hello"


@pytest.mark.parametrize("point", LOW_ORDER, ids=range(len(LOW_ORDER)))
def test_a_point_of_low_order_shares_no_secret(point: bytes) -> None:
    refused("seal", lambda: shared_point(SECRET, point))


@pytest.mark.parametrize(
    ("changed", "about"),
    [
        ("net", replace(ABOUT, net_id=bytes(32))),
        ("requester", replace(ABOUT, requester=NodeId(bytes(32)))),
        ("worker", replace(ABOUT, worker=NodeId(bytes(32)))),
        ("request", replace(ABOUT, request_id=RequestId(b"x" * 16))),
        ("attempt", replace(ABOUT, attempt=2)),
    ],
)
def test_a_seal_opens_only_for_what_it_was_made_for(changed: str, about: About) -> None:
    sealed = keys().seal(b"hello", head(1), to_worker=True)
    refused("seal", lambda: keys(about=about).open(sealed, head(1), to_worker=True))


def test_a_seal_is_bound_to_its_keys_its_direction_and_the_envelope_that_carries_it() -> None:
    sealed = keys().seal(b"hello", head(1), to_worker=True)
    for other in (keys(dh=OTHER), keys(epk=OTHER), keys(prekey=SECRET)):
        refused("seal", lambda other=other: other.open(sealed, head(1), to_worker=True))
    refused("seal", lambda: keys().open(sealed, head(1), to_worker=False))
    refused("seal", lambda: keys().open(sealed, head(2), to_worker=True))
    refused("seal", lambda: keys().open(sealed, head(1, boot=5), to_worker=True))


@pytest.mark.parametrize("size", range(17))
def test_a_body_that_has_hardly_room_for_its_tag_does_not_open_and_raises_nothing_else(size: int) -> None:
    refused("seal", lambda: keys().open(bytes(size), head(1), to_worker=True))


@given(st.binary(max_size=400), st.integers(0, 10_000))
def test_one_changed_bit_anywhere_and_it_does_not_open(body: bytes, place: int) -> None:
    sealed = bytearray(keys().seal(body, head(1), to_worker=True))
    sealed[place // 8 % len(sealed)] ^= 1 << place % 8
    refused("seal", lambda: keys().open(bytes(sealed), head(1), to_worker=True))


def test_no_key_shows_in_a_repr() -> None:
    assert SECRET.hex() not in repr(keys())
    assert repr(SECRET) not in repr(keys())


# --- the body --------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=700), min_size=1, max_size=9))
def test_what_is_packed_is_unpacked_and_its_size_tells_little(items: list[bytes]) -> None:
    body = pack_items(items)
    assert unpack_items(body) == items
    assert len(body) % PAD_BYTES == 0


def test_the_largest_item_makes_the_largest_body() -> None:
    assert len(pack_items([bytes(MAX_GOSSIP_ITEM_BYTES)])) == MAX_BODY_BYTES


def padded(plain: bytes, size: int = PAD_BYTES) -> bytes:
    return plain + bytes(size - len(plain))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(PAD_BYTES),  # no item
        padded(b"\0\0\0\1a\0\0\0\0")[:-1],
        padded(b"\0\0\0\1a\0\0\0\0") + bytes(PAD_BYTES),  # more zeros than needed
        padded(b"\0\0\0\1a\0\0\0\0\1"),  # no zeros
        padded(b"\0\0\0\1a\0\0\0\0")[:-1] + b"\1",
        padded(b"\0\0\1\0a"),  # longer than the body
        padded(b"\xff\xff\xff\xff"),
        b"\0\0\0\xfc" + bytes(252),  # no end
        b"\0\0\0\xfb" + bytes(252),  # half an end
    ],
)
def test_a_body_that_no_honest_sender_makes_is_refused(body: bytes) -> None:
    refused("body", lambda: unpack_items(body))


@given(st.binary(max_size=600))
def test_whatever_the_body_nothing_but_a_protocol_error_is_raised(body: bytes) -> None:
    try:
        items = unpack_items(body)
    except ProtocolError:
        return
    assert pack_items(items) == body
