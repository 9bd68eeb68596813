"""Writes the seeds of corpus/: the golden vectors for each target, and hand-made hostile ones.

    PYTHONPATH=python:. python -m tests.fuzz.make_corpus

What a fuzzing run found and we fixed is added to the folder by hand, named after what it was.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.fuzz_wire import CORPUS, TARGETS

VECTORS = Path(__file__).parents[1] / "protocol" / "vectors" / "wire.json"
PAYLOAD, STRUCTURE, ENVELOPE, ASSIGN, GOSSIP, STREAM = range(len(TARGETS))


def golden() -> Iterator[tuple[str, int, bytes]]:
    vectors = json.loads(VECTORS.read_text())
    stream = b""
    for v in vectors["envelopes"] + vectors["frames"]:
        payload = bytes.fromhex(v["payload"])
        yield f"payload_{v['name']}", PAYLOAD, bytes([v["kind"] - 1]) + payload
    for v in vectors["envelopes"]:
        envelope = bytes.fromhex(v["envelope"])
        yield f"envelope_{v['name']}", ENVELOPE, envelope
        yield f"gossip_{v['name']}", GOSSIP, envelope
    for v in vectors["frames"]:
        frame = bytes.fromhex(v["stream"])
        stream += frame
        yield f"stream_{v['name']}", STREAM, b"\x05" + frame
    yield "assign", ASSIGN, bytes.fromhex(vectors["attempt"]["assign_stream"])[4:]
    yield "stream_of_everything", STREAM, b"\x80" + stream
    yield "structure_announce", STRUCTURE, bytes.fromhex(vectors["envelopes"][0]["payload"])
    yield "structure_logprobs", STRUCTURE, bytes.fromhex(vectors["frames"][6]["payload"])


def hostile() -> Iterator[tuple[str, int, bytes]]:
    yield "array_bomb", STRUCTURE, b"\xdd\x00\x04\x00\x00" * 50
    yield "deep", STRUCTURE, b"\x91" * 40
    yield "six_deep", STRUCTURE, b"\x91" * 5 + b"\x90"
    yield "seven_deep", STRUCTURE, b"\x91" * 6 + b"\x90"
    yield "map", STRUCTURE, b"\x91\x81\x01\x02"
    yield "empty_map", STRUCTURE, b"\x91\x80"
    yield "ext", STRUCTURE, b"\x91\xd4\x01\x00"
    yield "timestamp", STRUCTURE, b"\x91\xd6\xff\x00\x00\x00\x01"
    yield "unused_c1", STRUCTURE, b"\x91\xc1"
    yield "str32_of_4_gib", STRUCTURE, b"\x91\xdb\xff\xff\xff\xff"
    yield "bin32_of_4_gib", STRUCTURE, b"\x91\xc6\xff\xff\xff\xff"
    yield "array32_of_4_gib", STRUCTURE, b"\xdd\xff\xff\xff\xff"
    yield "cut_length", STRUCTURE, b"\x91\xdb\x00"
    yield "nan", STRUCTURE, b"\x91\xcb\x7f\xf8" + bytes(6)
    yield "bad_utf8", STRUCTURE, b"\x91\xa2\xc3\x28"
    yield "surrogate", STRUCTURE, b"\x91\xa3\xed\xa0\x80"
    yield (
        "run_of_ints",
        STRUCTURE,
        b"\xdc\x00\xc8" + bytes(range(100)) + b"\xcc\xff" * 50 + b"\xcd\x01\x00" * 50,
    )
    yield "run_one_short", STRUCTURE, b"\xdc\x00\x41" + bytes(64)
    yield (
        "run_with_a_float",
        STRUCTURE,
        b"\xdc\x00\x42" + bytes(64) + b"\xca" + struct.pack(">f", 0.5) + b"\x01",
    )
    yield "run_cut_inside", STRUCTURE, b"\xdc\x00\x40" + bytes(63) + b"\xce\x00"
    yield "leave_of_nan", PAYLOAD, b"\x01\x94\x01\x02\x03\xcb\x7f\xf8" + bytes(6)
    yield "bool_for_int", PAYLOAD, b"\x01\x94\xc3\x02\x03\xa0"
    yield "int_for_float", PAYLOAD, b"\x09\x97\x00\x00\x01\x00\x92\x00\x00\xc4\x20" + bytes(32) + b"\xc0"
    yield "zero_length_item", STREAM, b"\x00" + bytes(4)
    yield "item_of_4_gib", STREAM, b"\x03\xff\xff\xff\xff" + bytes(20)
    yield (
        "unknown_frame_kind",
        STREAM,
        b"\x00" + struct.pack(">I", 72) + b"\x93\x0e\xc4\x02\x91\x00\xc4\x40" + bytes(64),
    )
    yield "empty_envelope", ENVELOPE, b"\x95"
    yield "nothing", GOSSIP, b""


if __name__ == "__main__":
    for name, target, data in [*golden(), *hostile()]:
        (CORPUS / name).write_bytes(bytes([target]) + data)
