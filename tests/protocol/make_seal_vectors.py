"""Makes the golden vectors of the seal: vectors/seal.json, from fixed secrets and the keys of wire_samples.

    PYTHONPATH=python:. python -m tests.protocol.make_seal_vectors

Run it only when the protocol changes on purpose. All bytes are lower-case hex. `test_seal.py` recomputes
everything from the text of PROTOCOL section 7, with other code than the library's own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llama_gossip.protocol.frames import FrameWriter, encode_assign
from llama_gossip.protocol.limits import LENGTH_PREFIX_BYTES
from llama_gossip.protocol.messages import Ack, Assign
from llama_gossip.protocol.seal import About, SealKeys, nonce, public_key, shared_point
from llama_gossip.protocol.tunnel_body import pack_items
from tests.protocol.wire_samples import ENVELOPES, FRAMES, NET_ID, REQUESTER, WORKER, head

PATH = Path(__file__).parent / "vectors" / "seal.json"
PREKEY_SECRET = bytes(range(0x10, 0x30))
EPHEMERAL_SECRET = bytes(range(0x50, 0x70))


def vectors() -> dict[str, object]:
    assign = ENVELOPES["assign"]
    assert isinstance(assign, Assign)
    prekey, epk = public_key(PREKEY_SECRET), public_key(EPHEMERAL_SECRET)
    dh = shared_point(EPHEMERAL_SECRET, prekey)
    about = About(NET_ID, REQUESTER.node_id, WORKER.node_id, assign.request_id, assign.attempt)
    keys = SealKeys(dh, epk=epk, prekey=prekey, about=about)
    stream, context = encode_assign(assign, REQUESTER, NET_ID)
    forth = [stream[LENGTH_PREFIX_BYTES:]]
    worker = FrameWriter(context, WORKER)
    back = [worker.encode(Ack(0, 0)), worker.encode(FRAMES["progress"]), worker.encode(FRAMES["token"])]
    return {
        "prekey_secret": PREKEY_SECRET.hex(),
        "prekey": prekey.hex(),
        "ephemeral_secret": EPHEMERAL_SECRET.hex(),
        "epk": epk.hex(),
        "dh": dh.hex(),
        "request_id": assign.request_id.hex(),
        "attempt": assign.attempt,
        "packets": [
            _packet(keys, forth, seq=8, to_worker=True),
            _packet(keys, [item[LENGTH_PREFIX_BYTES:] for item in back], seq=9, to_worker=False),
        ],
    }


def _packet(keys: SealKeys, items: list[bytes], *, seq: int, to_worker: bool) -> dict[str, object]:
    body = pack_items(items)
    return {
        "to_worker": to_worker,
        "boot": head(seq).boot,
        "seq": seq,
        "nonce": nonce(head(seq)).hex(),
        "items": [item.hex() for item in items],
        "body": body.hex(),
        "sealed": keys.seal(body, head(seq), to_worker=to_worker).hex(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1) + "\n")
    sys.stdout.write(f"{PATH.name}: {PATH.stat().st_size} bytes\n")
