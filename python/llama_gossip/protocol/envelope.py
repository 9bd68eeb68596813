"""The signed envelope of kinds 1-5 and 13: who says what to which network (PROTOCOL section 2).

    msgpack [ver=1, kind, from bin32, payload bin, sig bin64]
    signed: "llama-gossip/v1/envelope\\0" ‖ ver u8 ‖ kind u8 ‖ from ‖ tag ‖ payload
    tag = BLAKE2b-256(ver ‖ kind ‖ from ‖ payload, key=net_id), recomputed by members, never sent

The payload's bytes are signed as they are and never re-encoded. Signatures are made and judged by libsodium:
its verdict is the protocol's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import Protocol, TypeAlias, cast

from nacl import bindings
from nacl.exceptions import BadSignatureError

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.codec import decode_payload, encode_payload, kind_of
from llama_gossip.protocol.limits import (
    ENVELOPE_OVERHEAD_BYTES,
    HEAD_BYTES,
    KEY_BYTES,
    MAX_ADDRESSES,
    MAX_ANNOUNCED_MODELS,
    MAX_ARRAY,
    MAX_ASSIGN_BYTES,
    MAX_CONTROL_BYTES,
    MAX_TOPIC_BYTES,
    SIGNATURE_BYTES,
)
from llama_gossip.protocol.messages import (
    PROTOCOL_VERSION,
    Announce,
    Assign,
    Claim,
    EnvelopeMessage,
    Head,
    Kind,
    NodeId,
    Packet,
    Request,
)
from llama_gossip.protocol.outer import OuterArray
from llama_gossip.protocol.record import record
from llama_gossip.protocol.structure import malformed, pack

_LABEL = b"llama-gossip/v1/envelope\0"
_ENVELOPE_KINDS = frozenset({Kind.ANNOUNCE, Kind.LEAVE, Kind.REQUEST, Kind.CLAIM, Kind.ASSIGN, Kind.PACKET})

Verifier: TypeAlias = Callable[[NodeId, bytes, bytes], bool]  # (node_id, message, signature)


class Signer(Protocol):
    """Whatever holds a node's key."""

    @property
    def node_id(self) -> NodeId: ...
    def sign(self, message: bytes) -> bytes:
        """ed25519 signature, 64 bytes."""


class KeySigner:
    """Signs with a 32-byte seed. The seed is in no repr, no pickle and no error."""

    __slots__ = ("__secret", "_node_id")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise ValueError(f"a key seed has {KEY_BYTES} bytes")
        public, self.__secret = bindings.crypto_sign_seed_keypair(seed)
        self._node_id = NodeId(public)

    @property
    def node_id(self) -> NodeId:
        return self._node_id

    def sign(self, message: bytes) -> bytes:
        return bindings.crypto_sign(message, self.__secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"KeySigner({self._node_id.hex()[:10]}…)"

    def __reduce__(self) -> str:
        raise TypeError("a signing key is never pickled or copied")


def verify_signature(node_id: NodeId, message: bytes, signature: bytes) -> bool:
    """As libsodium's crypto_sign_open judges it. Never raises: what has the wrong size is no signature."""
    if len(node_id) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + message, node_id)
    except BadSignatureError:
        return False
    return True


# --- what is signed ------------------------------------------------------------------------------


def envelope_tag(kind: int, sender: NodeId, payload: bytes, net_id: bytes) -> bytes:
    """32 bytes that only a member can compute."""
    head = bytes((PROTOCOL_VERSION, kind))
    return blake2b(head + sender + payload, digest_size=32, key=net_id).digest()


def envelope_signed_bytes(kind: int, sender: NodeId, payload: bytes, net_id: bytes) -> bytes:
    return signed_bytes_of_tag(kind, sender, payload, envelope_tag(kind, sender, payload, net_id))


def signed_bytes_of_tag(kind: int, sender: NodeId, payload: bytes, tag: bytes) -> bytes:
    """The same from a transcript's tag: a signature can be checked without the network's secret."""
    return b"".join((_LABEL, bytes((PROTOCOL_VERSION, kind)), sender, tag, payload))


# --- sending -------------------------------------------------------------------------------------


def sign_envelope(message: EnvelopeMessage, signer: Signer, net_id: bytes) -> bytes:
    """The encoded, signed envelope; an Announce is first cut to its cap (`fit_announce`).
    Raises ProtocolError: code oversize over the kind's cap, malformed for what no receiver would take."""
    return sign_envelope_and_tell(message, signer, net_id)[0]


def sign_envelope_and_tell(message: EnvelopeMessage, signer: Signer, net_id: bytes) -> tuple[bytes, bytes]:
    """(the same, the bytes that its signature covers).
    Raises ProtocolError: code oversize over the kind's cap, malformed for what no receiver would take."""
    if isinstance(message, Announce):
        message, payload = _fitted(message)
    else:
        payload = encode_payload(message)
    cap = envelope_cap(message)
    if len(payload) > cap:  # before the signature: an oversize prompt costs nothing
        raise _oversize(message, len(payload) + ENVELOPE_OVERHEAD_BYTES, cap)
    kind = kind_of(message)
    signed = envelope_signed_bytes(kind, signer.node_id, payload, net_id)
    fields = PROTOCOL_VERSION, int(kind), signer.node_id, payload, signer.sign(signed)
    data = pack(fields)
    if len(data) > cap:
        raise _oversize(message, len(data), cap)
    return data, signed


def envelope_cap(message: EnvelopeMessage) -> int:
    """The most bytes that the encoded envelope may have. A Request is public iff it carries its prompt."""
    if isinstance(message, Assign):
        return MAX_ASSIGN_BYTES
    if isinstance(message, Packet) or (isinstance(message, Request) and message.prompt is not None):
        return MAX_TOPIC_BYTES
    return MAX_CONTROL_BYTES


def fit_announce(announce: Announce) -> Announce:
    """The same without marks of conversations, then with models dropped from the end, until it fits its cap.
    What a node does not announce it still answers Requests for."""
    return _fitted(announce)[0]


def _fitted(announce: Announce) -> tuple[Announce, bytes]:
    """(what fits, its payload)."""
    capacity = announce.capacity
    models = capacity.models[:MAX_ANNOUNCED_MODELS]
    announce = replace(announce, addresses=announce.addresses[:MAX_ADDRESSES])
    while True:
        fitted = replace(announce, capacity=replace(capacity, models=models))
        payload = encode_payload(fitted)
        size = len(payload) + ENVELOPE_OVERHEAD_BYTES
        if size <= MAX_CONTROL_BYTES:
            return fitted, payload
        if announce.conversations:  # a hint is worth less than any model
            announce = replace(announce, conversations=())
        elif models:
            models = models[:-1]
        else:
            raise _oversize(announce, size, MAX_CONTROL_BYTES)


def _oversize(message: EnvelopeMessage, size: int, cap: int) -> ProtocolError:
    name = type(message).__name__
    return ProtocolError(
        f"{name} of {size} bytes, at most {cap} are allowed", hint="shorten what it carries", code="oversize"
    )


# --- receiving -----------------------------------------------------------------------------------


@record(frozen=True, slots=True)
class RawEnvelope:
    """An envelope whose outer array and head were read, nothing else: neither signature nor payload."""

    kind: Kind
    sender: NodeId
    payload: bytes
    signature: bytes
    head: Head
    data: bytes  # as received


def split_envelope(data: bytes, cap: int) -> RawEnvelope:
    """Raises only ProtocolError, code oversize | malformed | version | kind. The array must be exact and in
    its shortest form: one message, one encoding. The head comes from the first 32 bytes of the payload."""
    if len(data) > cap:
        raise ProtocolError(f"an envelope of {len(data)} bytes, at most {cap} are allowed", code="oversize")
    outer = OuterArray(data, elements=5)
    version, kind = outer.uint8(), outer.uint8()
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol version {version}", hint="update llama-gossip", code="version")
    if kind not in _ENVELOPE_KINDS:
        raise ProtocolError(f"no envelope of kind {kind} is known", code="kind")
    sender, payload, signature = outer.binary(), outer.binary(), outer.binary()
    outer.end()
    if len(sender) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        raise malformed("a key or signature of the wrong size")
    return RawEnvelope(Kind(kind), NodeId(sender), payload, signature, read_head(payload), data)


def verify_envelope(raw: RawEnvelope, net_id: bytes, verify: Verifier) -> bool:
    """Did `raw.sender` sign it, for this network?"""
    signed = envelope_signed_bytes(raw.kind, raw.sender, raw.payload, net_id)
    return verify(raw.sender, signed, raw.signature)


def decode_envelope(raw: RawEnvelope) -> EnvelopeMessage:
    """The message in it. Raises only ProtocolError. Whether it speaks for its signer: `check_author`."""
    return cast(EnvelopeMessage, decode_payload(raw.kind, raw.payload))


def check_author(message: EnvelopeMessage, sender: NodeId) -> None:
    """Raises ProtocolError (code author) for a message that names another author than its signer."""
    if isinstance(message, Request) and message.requester != sender:
        raise ProtocolError("a Request in the name of another node", code="author")
    if isinstance(message, Claim) and message.worker != sender:
        raise ProtocolError("a Claim in the name of another node", code="author")
    if isinstance(message, Packet) and not _is_between(message, sender):
        raise ProtocolError("a Packet of somebody who is no party to its attempt", code="author")


def _is_between(packet: Packet, sender: NodeId) -> bool:
    """A requester to a worker, or back."""
    return packet.requester in (sender, packet.to) and sender != packet.to


def read_head(payload: bytes) -> Head:
    """boot, seq and ts out of the first 32 bytes, whatever their width. Raises only ProtocolError."""
    head = OuterArray(payload[:HEAD_BYTES], shortest=False, least=3, most=MAX_ARRAY)
    return Head(head.uint(), head.uint(), head.uint())


class EnvelopeReader(Protocol):
    """How a receiver reads what comes from the topic: pure functions of the bytes. Many nodes of one process
    may share one that remembers."""

    def split(self, data: bytes) -> RawEnvelope:
        """Raises ProtocolError."""

    def is_signed(self, raw: RawEnvelope) -> bool:
        """By `raw.sender`, a member of the network."""

    def message(self, raw: RawEnvelope) -> EnvelopeMessage:
        """Raises ProtocolError."""


@record(frozen=True, slots=True)
class PlainReader:
    """Remembers nothing."""

    net_id: bytes
    verify: Verifier

    def split(self, data: bytes) -> RawEnvelope:
        return split_envelope(data, MAX_TOPIC_BYTES)

    def is_signed(self, raw: RawEnvelope) -> bool:
        return verify_envelope(raw, self.net_id, self.verify)

    def message(self, raw: RawEnvelope) -> EnvelopeMessage:
        return decode_envelope(raw)
