"""Reading: what an envelope of the topic says, worked out once for all the cores and oracles that ask.

The law: it is the protocol's own reading, and the same bytes say the same, whoever reads them.
"""

from __future__ import annotations

from functools import lru_cache

from llama_gossip.protocol.envelope import (
    RawEnvelope,
    Verifier,
    decode_envelope,
    split_envelope,
    verify_envelope,
)
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import EnvelopeMessage

_KEPT = 1_024  # what is on its way at once, and more


@lru_cache(maxsize=_KEPT)
def raw_of(data: bytes) -> RawEnvelope:
    """Raises only ProtocolError."""
    return split_envelope(data, MAX_TOPIC_BYTES)


@lru_cache(maxsize=_KEPT)
def message_of(data: bytes) -> EnvelopeMessage:
    """Raises only ProtocolError."""
    return decode_envelope(raw_of(data))


class SharedReader:
    """Of all cores of one world: each hears what the others hear."""

    def __init__(self, net_id: bytes, verify: Verifier) -> None:
        @lru_cache(maxsize=_KEPT)
        def is_signed(data: bytes) -> bool:
            return verify_envelope(raw_of(data), net_id, verify)

        self._is_signed = is_signed

    def split(self, data: bytes) -> RawEnvelope:
        return raw_of(data)

    def is_signed(self, raw: RawEnvelope) -> bool:
        return self._is_signed(raw.data)

    def message(self, raw: RawEnvelope) -> EnvelopeMessage:
        return message_of(raw.data)
