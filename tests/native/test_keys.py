"""Keys and signatures agree with libsodium."""

from __future__ import annotations

import nacl.exceptions
import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_gossip import _native as native

seeds = st.binary(min_size=32, max_size=32)


@given(seeds, st.binary(max_size=300))
def test_signatures_are_those_of_libsodium(seed, message):
    key = nacl.signing.SigningKey(seed)
    assert native.public_key(seed) == bytes(key.verify_key)
    signature = native.sign(seed, message)
    assert signature == key.sign(message).signature
    assert native.verify(native.public_key(seed), message, signature)


@given(seeds, st.binary(min_size=1, max_size=100), st.integers(0, 511))
def test_a_flipped_bit_is_refused_by_both(seed, message, bit):
    forged = bytearray(native.sign(seed, message))
    forged[bit // 8] ^= 1 << bit % 8
    node = native.public_key(seed)
    assert not native.verify(node, message, forged)
    with pytest.raises(nacl.exceptions.BadSignatureError):
        nacl.signing.VerifyKey(node).verify(message, bytes(forged))


def test_a_small_order_key_forgery_is_refused():
    # Identity point as key and as R, S = 0: a lax verifier accepts any message.
    identity = b"\x01" + bytes(31)
    assert not native.verify(identity, b"anything", identity + bytes(32))


def test_any_buffer_is_taken_and_wrong_lengths_are_not():
    seed = bytes(32)
    for buffer in (bytearray(seed), memoryview(seed)):
        assert native.public_key(buffer) == native.public_key(seed)
    with pytest.raises(native.ConfigError):
        native.public_key(b"short")
    assert not native.verify(b"short", b"", bytes(64))
    assert not native.verify(native.public_key(seed), b"", b"short")
    with pytest.raises(TypeError):
        native.sign(seed, "text")
