"""Makes the golden vectors of the wire: vectors/wire.json, from the fixed keys and messages of wire_samples.

    PYTHONPATH=python:. python -m tests.protocol.make_vectors

Run it only when the protocol changes on purpose: a vector that differs is a wire that differs. All bytes are
lower-case hex. `test_vectors.py` recomputes everything and checks it against the text of the protocol.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llama_gossip.protocol.codec import encode_payload, kind_of
from llama_gossip.protocol.envelope import KeySigner, envelope_signed_bytes, envelope_tag, sign_envelope
from llama_gossip.protocol.frames import FrameWriter, assign_context, encode_assign, frame_signed_bytes
from llama_gossip.protocol.limits import LENGTH_PREFIX_BYTES
from llama_gossip.protocol.messages import Ack, Assign, Cancel, Claim, EnvelopeMessage, Frame
from llama_gossip.protocol.network import open_secret, topic_id
from tests.protocol.wire_samples import (
    ENVELOPES,
    FRAMES,
    NET_ID,
    REQUESTER,
    REQUESTER_SEED,
    SECRET,
    WORKER,
    WORKER_SEED,
)

PATH = Path(__file__).parent / "vectors" / "wire.json"
OPEN_NAME = "llama-inference-gossip"


def signer_of(message: EnvelopeMessage | Frame) -> KeySigner:
    """Requests, Assigns, Leaves, Cancels and Acks are the requester's here, the rest the worker's."""
    return WORKER if isinstance(message, Claim) or type(message).__name__ in _WORKERS else REQUESTER


_WORKERS = {"Announce", "Reject", "Progress", "Token", "Complete", "Error"}


def envelope_vector(name: str, message: EnvelopeMessage) -> dict[str, object]:
    signer, kind, payload = signer_of(message), kind_of(message), encode_payload(message)
    return {
        "name": name,
        "kind": int(kind),
        "from": signer.node_id.hex(),
        "payload": payload.hex(),
        "tag": envelope_tag(kind, signer.node_id, payload, NET_ID).hex(),
        "signed": envelope_signed_bytes(kind, signer.node_id, payload, NET_ID).hex(),
        "envelope": sign_envelope(message, signer, NET_ID).hex(),
    }


def frame_vector(name: str, frame: Frame, context: bytes) -> dict[str, object]:
    signer, kind, payload = signer_of(frame), kind_of(frame), encode_payload(frame)
    return {
        "name": name,
        "kind": int(kind),
        "from": signer.node_id.hex(),
        "payload": payload.hex(),
        "signed": frame_signed_bytes(context, signer.node_id, kind, payload).hex(),
        "stream": FrameWriter(context, signer).encode(frame).hex(),
    }


def vectors() -> dict[str, object]:
    assign = ENVELOPES["assign"]
    assert isinstance(assign, Assign)
    stream, context = encode_assign(assign, REQUESTER, NET_ID)
    payload = encode_payload(assign)
    signed = envelope_signed_bytes(kind_of(assign), REQUESTER.node_id, payload, NET_ID)
    assert context == assign_context(signed)
    assert int.from_bytes(stream[:LENGTH_PREFIX_BYTES], "big") == len(stream) - LENGTH_PREFIX_BYTES
    assert isinstance(FRAMES["ack"], Ack)
    assert isinstance(FRAMES["cancel"], Cancel)
    return {
        "network": {
            "secret": SECRET.hex(),
            "topic_id": topic_id(SECRET).hex(),
            "net_id": NET_ID.hex(),
            "open_name": OPEN_NAME,
            "open_secret": open_secret(OPEN_NAME).hex(),
        },
        "keys": {
            "requester_seed": REQUESTER_SEED.hex(),
            "requester": REQUESTER.node_id.hex(),
            "worker_seed": WORKER_SEED.hex(),
            "worker": WORKER.node_id.hex(),
        },
        "envelopes": [envelope_vector(name, message) for name, message in ENVELOPES.items()],
        "attempt": {"assign_stream": stream.hex(), "context": context.hex()},
        "frames": [frame_vector(name, frame, context) for name, frame in FRAMES.items()],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1) + "\n")
    sys.stdout.write(f"{PATH.name}: {PATH.stat().st_size} bytes\n")
