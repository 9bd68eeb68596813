"""What a network secret stands for: the topic its members meet on, and the key of their envelopes' tags.

Neither the secret nor `net_id` ever crosses the wire: a valid tag is the proof of membership.
"""

from __future__ import annotations

from hashlib import blake2b

SECRET_BYTES = 32  # as long as BLAKE2b's output: no shorter secret is stretched, no longer one is cut

_TOPIC_LABEL = b"llama-gossip/v1/topic"
_NET_LABEL = b"llama-gossip/v1/net"
_OPEN_LABEL = b"llama-gossip/v1/open\0"


def topic_id(secret: bytes) -> bytes:
    """The gossip topic (32 bytes) of a network. Public: neighbours on the overlay see it."""
    return blake2b(_TOPIC_LABEL, digest_size=32, key=_checked(secret)).digest()


def net_id(secret: bytes) -> bytes:
    """The key (32 bytes) of the network's envelope tags. Members compute it, nobody sends it."""
    return blake2b(_NET_LABEL, digest_size=32, key=_checked(secret)).digest()


def open_secret(name: str) -> bytes:
    """The secret of an open network: everybody who knows its name, exactly as given, is a member."""
    return blake2b(_OPEN_LABEL + name.encode("utf-8"), digest_size=32).digest()


def _checked(secret: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a network secret has {SECRET_BYTES} bytes, this one {len(secret)}")
    return secret
