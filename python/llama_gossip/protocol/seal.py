"""Seal: what makes a Packet readable by its two parties alone (PROTOCOL section 7).

    64-byte key = BLAKE2b-512(dh ‖ epk ‖ prekey ‖ requester ‖ worker ‖ request_id ‖ attempt u32 BE,
                              person "lg1-seal"): first half requester → worker, second half back
    XChaCha20-Poly1305, nonce = boot u64 ‖ seq u64 ‖ 8 zero bytes of the carrying envelope
    AD = "llama-gossip/v1/seal\\0" ‖ net_id ‖ from ‖ to ‖ request_id ‖ attempt u32 BE

The law: a (boot, seq) is signed once, so no key ever meets a nonce twice; whatever does not open raises
ProtocolError with the code seal and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from nacl import bindings
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumError

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.limits import KEY_BYTES
from llama_gossip.protocol.messages import Head, NodeId, RequestId

_LABEL = b"llama-gossip/v1/seal\0"
_PERSON = b"lg1-seal"
_TAG_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES


def public_key(secret: bytes) -> bytes:
    """The X25519 public key of 32 secret bytes."""
    return bindings.crypto_scalarmult_base(secret)


def shared_point(secret: bytes, public: bytes) -> bytes:
    """Raises ProtocolError for a public key of low order: its shared point is known to everybody."""
    if len(public) != KEY_BYTES:
        raise ProtocolError(f"a key of {len(public)} bytes", code="seal")
    try:
        return bindings.crypto_scalarmult(secret, public)
    except (SodiumError, CryptoError) as error:
        raise ProtocolError("a key that shares no secret", code="seal") from error


@dataclass(frozen=True, slots=True)
class About:
    """What a seal is bound to."""

    net_id: bytes
    requester: NodeId
    worker: NodeId
    request_id: RequestId
    attempt: int

    @property
    def parties(self) -> tuple[bytes, bytes]:
        return self.requester, self.worker

    @property
    def attempt_bytes(self) -> bytes:
        return self.request_id + self.attempt.to_bytes(4, "big")


class SealKeys:
    """Both directions of one attempt. The keys are in no repr."""

    __slots__ = ("__back", "__forth", "_about")

    def __init__(self, dh: bytes, *, epk: bytes, prekey: bytes, about: About) -> None:
        requester, worker = about.parties
        bound = b"".join((dh, epk, prekey, requester, worker, about.attempt_bytes))
        key = blake2b(bound, digest_size=2 * KEY_BYTES, person=_PERSON).digest()
        self.__forth, self.__back = key[:KEY_BYTES], key[KEY_BYTES:]
        self._about = about

    def seal(self, body: bytes, head: Head, *, to_worker: bool) -> bytes:
        return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            body, self._associated(to_worker), nonce(head), self._key(to_worker)
        )

    def open(self, sealed: bytes, head: Head, *, to_worker: bool) -> bytes:
        """Raises only ProtocolError, code seal."""
        if len(sealed) < _TAG_BYTES:  # the binding would raise an error of its own kind
            raise ProtocolError("a sealed body without room for its tag", code="seal")
        try:
            return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, self._associated(to_worker), nonce(head), self._key(to_worker)
            )
        except CryptoError as error:
            raise ProtocolError("a body that does not open", code="seal") from error

    def _key(self, to_worker: bool) -> bytes:
        return self.__forth if to_worker else self.__back

    def _associated(self, to_worker: bool) -> bytes:
        requester, worker = self._about.parties
        sender, receiver = (requester, worker) if to_worker else (worker, requester)
        return b"".join((_LABEL, self._about.net_id, sender, receiver, self._about.attempt_bytes))

    def __repr__(self) -> str:
        return "SealKeys(…)"


def nonce(head: Head) -> bytes:
    """Of the envelope that carries the body."""
    return head.boot.to_bytes(8, "big") + head.seq.to_bytes(8, "big") + bytes(8)
