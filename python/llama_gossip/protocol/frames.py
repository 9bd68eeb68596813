"""The frames of an attempt, kinds 6-12: each bound to its Assign, numbered without gaps, signed.

    u32 BE length ‖ msgpack [kind, payload bin, sig bin64]                  payload = [n, …]
    signed: "llama-gossip/v1/frame\\0" ‖ ctx(32) ‖ from(32) ‖ kind u8 ‖ payload
    ctx = BLAKE2b-256(the Assign's signed bytes)

ctx binds a frame to the prompt, the parties, the network and the attempt; n orders it in its direction. The
first item of an attempt is the Assign's envelope behind the same length prefix.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import cast

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.codec import decode_payload, encode_payload, kind_of
from llama_gossip.protocol.envelope import (
    Signer,
    Verifier,
    decode_envelope,
    envelope_tag,
    sign_envelope_and_tell,
    signed_bytes_of_tag,
    split_envelope,
)
from llama_gossip.protocol.limits import (
    LENGTH_PREFIX_BYTES,
    MAX_ARRAY,
    MAX_ASSIGN_BYTES,
    MAX_FRAME_BYTES,
    SIGNATURE_BYTES,
)
from llama_gossip.protocol.messages import Ack, Assign, Frame, Kind, NodeId
from llama_gossip.protocol.outer import OuterArray
from llama_gossip.protocol.structure import check_structure, malformed, pack

_LABEL = b"llama-gossip/v1/frame\0"

REQUESTER_KINDS = frozenset({Kind.CANCEL})  # what a requester may send on a direct stream after its Assign
WORKER_KINDS = frozenset({Kind.REJECT, Kind.PROGRESS, Kind.TOKEN, Kind.COMPLETE, Kind.ERROR})
TERMINAL_KINDS = frozenset({Kind.REJECT, Kind.COMPLETE, Kind.ERROR})  # after them their sender only acks
_KINDS = {int(kind): kind for kind in Kind}
_NEWEST_KIND = max(_KINDS)


def assign_context(signed_bytes: bytes) -> bytes:
    """ctx: the hash of the whole string that the Assign's signature covers, label and tag included."""
    return blake2b(signed_bytes, digest_size=32).digest()


def frame_signed_bytes(context: bytes, sender: NodeId, kind: int, payload: bytes) -> bytes:
    return b"".join((_LABEL, context, sender, bytes((kind,)), payload))


def prefixed(item: bytes) -> bytes:
    return len(item).to_bytes(LENGTH_PREFIX_BYTES, "big") + item


# --- the Assign ----------------------------------------------------------------------------------


def encode_assign(assign: Assign, signer: Signer, net_id: bytes) -> tuple[bytes, bytes]:
    """(what to write first on the stream, ctx of the attempt). Raises ProtocolError, code oversize."""
    data, signed = sign_envelope_and_tell(assign, signer, net_id)
    return prefixed(data), assign_context(signed)


def open_assign(item: bytes, net_id: bytes, verify: Verifier) -> tuple[Assign, NodeId, bytes, bytes]:
    """(the Assign, its signer, ctx, tag) of a stream's first item; no window and no ts applies to it.
    That the signer is the connection's remote and `worker` this node is the caller's to check.
    Raises only ProtocolError, code oversize | malformed | version | kind | signature."""
    raw = split_envelope(item, MAX_ASSIGN_BYTES)
    if raw.kind is not Kind.ASSIGN:
        raise ProtocolError(f"a stream that begins with {raw.kind.name}, not with an Assign", code="kind")
    tag = envelope_tag(raw.kind, raw.sender, raw.payload, net_id)
    signed = signed_bytes_of_tag(raw.kind, raw.sender, raw.payload, tag)
    if not verify(raw.sender, signed, raw.signature):
        raise _bad_signature("Assign")
    return cast(Assign, decode_envelope(raw)), raw.sender, assign_context(signed), tag


def context_of(item: bytes, net_id: bytes) -> tuple[Assign, bytes]:
    """(the Assign, ctx) of an item that this node has signed itself: nothing is verified."""
    raw = split_envelope(item, MAX_ASSIGN_BYTES)
    tag = envelope_tag(raw.kind, raw.sender, raw.payload, net_id)
    context = assign_context(signed_bytes_of_tag(raw.kind, raw.sender, raw.payload, tag))
    return cast(Assign, decode_envelope(raw)), context


# --- items out of a byte stream ------------------------------------------------------------------


class ItemSplitter:
    """Cuts length-prefixed items out of arbitrary chunks.

    A length over its cap is refused when it is read, before anything of the item is kept. The first item of
    a requester's side is its Assign; for the worker's side pass `first_cap=MAX_FRAME_BYTES`.
    """

    __slots__ = ("_buffer", "_cap", "_error")

    def __init__(self, first_cap: int = MAX_ASSIGN_BYTES) -> None:
        self._buffer = bytearray()
        self._cap = first_cap
        self._error: ProtocolError | None = None

    @property
    def pending(self) -> int:
        """Bytes of an item that is not complete yet: more than 0 when a stream ends means that it was cut."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The items that are complete now, without their prefix. Raises ProtocolError (code oversize or
        malformed) at a bad length, but only once all items before it were returned, and then always: how a
        stream was cut into chunks changes nothing."""
        if self._error is not None:
            raise self._error
        buffer = self._buffer
        buffer += data
        items: list[bytes] = []
        position = 0
        while len(buffer) - position >= LENGTH_PREFIX_BYTES:
            start = position + LENGTH_PREFIX_BYTES
            length = int.from_bytes(buffer[position:start], "big")
            if (error := self._refused(length)) is not None:
                self._error = error
                buffer.clear()
                if items:
                    return items
                raise error
            if len(buffer) < start + length:
                break
            position = start + length
            items.append(bytes(buffer[start:position]))
            self._cap = MAX_FRAME_BYTES
        del buffer[:position]
        return items

    def _refused(self, length: int) -> ProtocolError | None:
        if length > self._cap:
            return ProtocolError(
                f"an item of {length} bytes, at most {self._cap} are allowed", code="oversize"
            )
        if length == 0:
            return malformed("an empty item")
        return None


# --- frames --------------------------------------------------------------------------------------


class FrameWriter:
    """Numbers, signs and prefixes the frames of one direction."""

    __slots__ = ("_context", "_ended", "_signer", "next_n")

    def __init__(self, context: bytes, signer: Signer, start_n: int = 0) -> None:
        self._context = context
        self._signer = signer
        self._ended = False
        self.next_n = start_n

    def encode(self, frame: Frame) -> bytes:
        """Prefix and item, ready to write; the frame's own n is replaced. Raises ProtocolError, code
        oversize (split a Token then), malformed, or order (after a terminal frame); n is then not used up."""
        kind = kind_of(frame)
        if self._ended and kind is not Kind.ACK:
            raise ProtocolError(f"{kind.name} after the last frame", code="order")
        payload = encode_payload(frame, n=self.next_n)
        signed = frame_signed_bytes(self._context, self._signer.node_id, kind, payload)
        if len(payload) > MAX_FRAME_BYTES:
            raise self._oversize(kind, len(payload))
        item = pack((int(kind), payload, self._signer.sign(signed)))
        if len(item) > MAX_FRAME_BYTES:
            raise self._oversize(kind, len(item))
        if kind is not Kind.ACK:
            self.next_n += 1
        self._ended = self._ended or kind in TERMINAL_KINDS
        return prefixed(item)

    @staticmethod
    def _oversize(kind: Kind, size: int) -> ProtocolError:
        what = f"a {kind.name} frame of {size} bytes, at most {MAX_FRAME_BYTES} are allowed"
        return ProtocolError(what, hint="send fewer tokens in one frame", code="oversize")


class FrameReader:
    """Checks the frames of one direction. A refused item changes nothing."""

    __slots__ = ("_allowed", "_context", "_peer", "_verify", "ended", "next_n")

    def __init__(self, context: bytes, peer: NodeId, verify: Verifier, allowed: frozenset[Kind]) -> None:
        self._context = context
        self._peer = peer
        self._verify = verify
        self._allowed = allowed
        self.next_n = 0
        self.ended = False  # a terminal frame was read

    def decode(self, item: bytes) -> Frame | None:
        """The frame, or None for one of a kind that a later version added: it is counted in n and skipped.
        Raises only ProtocolError, code oversize | malformed | kind | order | signature."""
        if len(item) > MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame of {len(item)} bytes", code="oversize")
        kind, payload, signature = _split_frame(item, self._allowed)
        if self.ended and kind != Kind.ACK:
            raise ProtocolError("a frame after the last one", code="order")
        if not self._verify(
            self._peer, frame_signed_bytes(self._context, self._peer, kind, payload), signature
        ):
            raise _bad_signature("frame")
        known = _KINDS.get(kind)
        if known is None:
            self._advance(_read_n(payload))
            return None
        frame = cast(Frame, decode_payload(known, payload))
        self._accept(frame, known)
        return frame

    def _accept(self, frame: Frame, kind: Kind) -> None:
        if isinstance(frame, Ack):  # carries its sender's next n and uses none up
            if frame.n != self.next_n:
                raise self._wrong_n(frame.n)
            return
        self._advance(frame.n)
        self.ended = kind in TERMINAL_KINDS

    def _advance(self, n: int) -> None:
        if n != self.next_n:
            raise self._wrong_n(n)
        self.next_n += 1

    def _wrong_n(self, n: int) -> ProtocolError:
        return ProtocolError(f"frame {n} where {self.next_n} was due", code="order")


def open_loose(
    item: bytes, context: bytes, peer: NodeId, verify: Verifier, allowed: frozenset[Kind]
) -> tuple[int, Ack | None]:
    """(n, the Ack if it is one) of a frame that comes without the order of a stream. What else is in it is
    the stream's reader's to judge. Raises only ProtocolError, code malformed | kind | signature."""
    kind, payload, signature = _split_frame(item, allowed)
    if not verify(peer, frame_signed_bytes(context, peer, kind, payload), signature):
        raise _bad_signature("frame")
    if kind == Kind.ACK:
        ack = cast(Ack, decode_payload(Kind.ACK, payload))
        return ack.n, ack
    return OuterArray(payload, shortest=False, least=1, most=MAX_ARRAY).uint(), None


def _split_frame(item: bytes, allowed: frozenset[Kind]) -> tuple[int, bytes, bytes]:
    outer = OuterArray(item, elements=3)
    kind, payload, signature = outer.uint8(), outer.binary(), outer.binary()
    outer.end()
    if len(signature) != SIGNATURE_BYTES:
        raise malformed("a signature of the wrong size")
    if kind <= _NEWEST_KIND and kind not in allowed:
        raise ProtocolError(f"a frame of kind {kind} in this direction", code="kind")
    return kind, payload, signature


def _read_n(payload: bytes) -> int:
    """n of a frame whose other fields we do not know; the type limits hold for it all the same."""
    n = OuterArray(payload, shortest=False, least=1, most=MAX_ARRAY).uint()
    check_structure(payload, MAX_ARRAY)
    return n


def _bad_signature(what: str) -> ProtocolError:
    return ProtocolError(f"the signature of a {what} is not its sender's", code="signature")
