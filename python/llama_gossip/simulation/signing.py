"""Signatures of bulk runs: a keyed hash in the place of ed25519, twenty times as fast.

The law: only who has the key object signs for its node id; whoever copies, cuts or changes a signature is
found out. It protects nothing outside the simulation: the key is the node id, which everybody knows.
"""

from __future__ import annotations

from hashlib import blake2b

from llama_gossip.protocol.envelope import KeySigner, Signer, Verifier, verify_signature
from llama_gossip.protocol.limits import KEY_BYTES, SIGNATURE_BYTES
from llama_gossip.protocol.messages import NodeId

_PERSON = b"lg1-simulation"


class HashSigner:
    __slots__ = ("node_id",)

    def __init__(self, seed: bytes) -> None:
        self.node_id = NodeId(blake2b(seed, digest_size=KEY_BYTES, person=_PERSON).digest())

    def sign(self, message: bytes) -> bytes:
        return _signature(self.node_id, message)


def _signature(node_id: NodeId, message: bytes) -> bytes:
    return blake2b(message, digest_size=SIGNATURE_BYTES, key=node_id, person=_PERSON).digest()


def verify_hash(node_id: NodeId, message: bytes, signature: bytes) -> bool:
    return _signature(node_id, message) == signature


def signer_of(seed: bytes, *, ed25519: bool) -> Signer:
    return KeySigner(seed) if ed25519 else HashSigner(seed)


def verifier(*, ed25519: bool) -> Verifier:
    return verify_signature if ed25519 else verify_hash
