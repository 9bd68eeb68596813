"""Fuzz target of the wire: hostile bytes into everything that reads what a peer sent.

The first byte picks what is read, the rest is given to it; signatures are all taken as good, so that what
lies behind them is reached. Whatever the bytes: nothing but ProtocolError is raised, what is taken has one
encoding or comes back as it went, and nothing grows beyond its cap.

    PYTHONPATH=python:. python -m tests.fuzz.fuzz_wire [--runs 200000] [--seed 1]

`TestOneInput` has the shape that libFuzzer drivers such as atheris expect; none is needed to run it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol import limits
from llama_gossip.protocol.codec import decode_payload, encode_payload, kind_of
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.events import Now
from llama_gossip.protocol.frames import FrameReader, ItemSplitter, open_assign
from llama_gossip.protocol.messages import EnvelopeMessage, Kind, Message, NodeId
from llama_gossip.protocol.receive import Received, Receiver
from llama_gossip.protocol.structure import unpack_payload

CORPUS = Path(__file__).parent / "corpus"
NET_ID = bytes(32)
NODE = NodeId(b"n" * 32)
CODES = frozenset({"oversize", "malformed", "version", "kind", "signature", "order"})
WALL_MS = 1_764_000_012_345  # the ts of the golden vectors


def taken(node_id: NodeId, message: bytes, signature: bytes) -> bool:
    return True


def check_again(message: Message) -> None:
    """What was decoded can be encoded, and means the same."""
    assert decode_payload(kind_of(message), encode_payload(message)) == message


def read_payload(data: bytes) -> None:
    kind = Kind(data[0] % len(Kind) + 1) if data else Kind.LEAVE
    check_again(decode_payload(kind, data[1:]))


def read_structure(data: bytes) -> None:
    value = unpack_payload(data, limits.MAX_TOKEN_IDS)
    assert msgpack.unpackb(data, use_list=False, strict_map_key=True) == value or _has_nan(value)


def _has_nan(value: object) -> bool:
    if isinstance(value, tuple):
        return any(map(_has_nan, value))
    return value != value


def read_envelope(data: bytes) -> None:
    raw = split_envelope(data, limits.MAX_ASSIGN_BYTES)
    assert msgpack.packb([1, int(raw.kind), raw.sender, raw.payload, raw.signature]) == data
    message = decode_envelope(raw)
    assert message.head == raw.head
    check_again(message)


def read_assign(data: bytes) -> None:
    assign, _, context, tag = open_assign(data, NET_ID, taken)
    assert len(context) == len(tag) == 32
    check_again(assign)


def read_gossip(data: bytes) -> None:
    """Two deliveries: what was taken is not taken again."""
    receiver = Receiver(NET_ID, NODE, taken)
    now = Now(0, WALL_MS)
    first = receiver.receive(data, NODE, now, lambda _: False)
    if isinstance(first, Received):
        message: EnvelopeMessage = first.message
        check_again(message)
        assert not isinstance(receiver.receive(data, NODE, now, lambda _: False), Received)


def read_stream(data: bytes) -> None:
    """In one piece and cut in two: the same frames, then the same end."""
    cut = data[0] if data else 0
    whole, parts = _frames([data[1:]]), _frames([data[1 : 1 + cut], data[1 + cut :]])
    assert whole == parts


def _frames(chunks: list[bytes]) -> tuple[list[object], str]:
    splitter = ItemSplitter(limits.MAX_FRAME_BYTES)
    reader = FrameReader(bytes(32), NODE, taken, frozenset(Kind) - {Kind.PACKET})
    found: list[object] = []
    try:
        for chunk in [*chunks, b""]:
            for item in splitter.feed(chunk):
                frame = reader.decode(item)
                found.append(frame)
                assert reader.next_n <= len(found)
    except ProtocolError as error:
        return found, error.code
    assert splitter.pending <= limits.MAX_FRAME_BYTES + limits.LENGTH_PREFIX_BYTES
    return found, f"{splitter.pending} pending"


TARGETS: tuple[Callable[[bytes], None], ...] = (
    read_payload,
    read_structure,
    read_envelope,
    read_assign,
    read_gossip,
    read_stream,
)


def TestOneInput(data: bytes) -> None:
    if not data:
        return
    try:
        TARGETS[data[0] % len(TARGETS)](data[1:])
    except ProtocolError as error:
        if error.code not in CODES:
            raise


# --- without a fuzzing engine ----------------------------------------------------------------------


def corpus() -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted(CORPUS.iterdir())]


_INTERESTING = bytes.fromhex(
    "00017f80818f90919f a0bf c0c1c2c3c4c5c6c7 cacbcccdcecf d0d3d4d9dadb dcdddedf e0ff"
)


def mutants(seed: int, runs: int) -> Iterator[bytes]:
    """Corpus entries with bytes changed, cut, doubled and joined; the same for the same seed."""
    rng = random.Random(seed)
    entries = [data for _, data in corpus()]
    for _ in range(runs):
        data = bytearray(rng.choice(entries))
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            _mutate(data, rng, entries)
        yield bytes(data)


def _mutate(data: bytearray, rng: random.Random, entries: list[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(7):
        case 0 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 1 if data:
            data[at % len(data)] = rng.choice(_INTERESTING)
        case 2:
            data.insert(at, rng.choice(_INTERESTING))
        case 3:
            del data[at : at + rng.randrange(1, 5)]
        case 4:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        case 5:
            other = rng.choice(entries)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        case _:
            data[at : at + 8] = rng.randbytes(rng.choice((1, 2, 4, 8)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutates the corpus and reads the result.")
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name, data in corpus():
        TestOneInput(data)
        assert name
    for run, data in enumerate(mutants(options.seed, options.runs)):
        try:
            TestOneInput(data)
        except BaseException:
            sys.stderr.write(f"seed {options.seed}, run {run}: {data.hex()}\n")
            raise
    sys.stdout.write(f"{len(corpus())} of the corpus and {options.runs} mutants (seed {options.seed}) held\n")


if __name__ == "__main__":
    main()
