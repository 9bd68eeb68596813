"""Reading: what an envelope of the topic says, worked out once for all the oracles that ask.

The law: it reads what a core has sent or taken, which no oracle doubts here; the same bytes say the same.
"""

from __future__ import annotations

from functools import lru_cache

from llama_gossip.protocol.envelope import RawEnvelope, decode_envelope, split_envelope
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
