"""Every cap of a payload, at its edge: the last value that is taken and the first that is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgpack
import pytest

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol import limits
from llama_gossip.protocol.codec import decode_payload, encode_payload, kind_of
from llama_gossip.protocol.messages import (
    Announce,
    Assign,
    ChatPrompt,
    Error,
    IdsPrompt,
    Kind,
    Message,
    Request,
    Resume,
    Token,
    TokenLogprob,
)
from llama_gossip.protocol.structure import check_structure
from tests.protocol.wire_samples import CONFIG, ENVELOPES, FRAMES, OFFER
from tests.protocol.wire_tamper import SAMPLES, decode, elements, refused, replaced

ANNOUNCE, ASSIGN, REQUEST = ENVELOPES["announce"], ENVELOPES["assign"], ENVELOPES["request"]
ERROR, TOKEN = FRAMES["error"], FRAMES["token"]
assert isinstance(ANNOUNCE, Announce)
assert isinstance(ASSIGN, Assign)
assert isinstance(REQUEST, Request)
assert isinstance(ERROR, Error)
assert isinstance(TOKEN, Token)


def _token_logprobs(alternatives: int) -> Message:
    return replace(FRAMES["token"], token_ids=(), texts=("a",), logprobs=(_logprob(alternatives),))


def _logprob(alternatives: int) -> TokenLogprob:
    return TokenLogprob(-1.0, (("a", -1.0),) * alternatives)


# (the cap, a message whose measure is n)
CAPS: list[tuple[str, int, Callable[[int], Message]]] = [
    ("node name", limits.MAX_NAME_BYTES, lambda n: replace(ANNOUNCE, node_name="n" * n)),
    ("node name in UTF-8", 40, lambda n: replace(ANNOUNCE, node_name="é" * 20 + "x" * (n - 40))),
    (
        "model name",
        limits.MAX_NAME_BYTES,
        lambda n: replace(
            ANNOUNCE, capacity=replace(ANNOUNCE.capacity, models=(replace(OFFER, name="m" * n),))
        ),
    ),
    (
        "models",
        limits.MAX_ANNOUNCED_MODELS,
        lambda n: replace(ANNOUNCE, capacity=replace(ANNOUNCE.capacity, models=(OFFER,) * n)),
    ),
    ("features", limits.MAX_FEATURES, lambda n: replace(ANNOUNCE, features=("v/1",) * n)),
    ("feature", limits.MAX_FEATURE_BYTES, lambda n: replace(ANNOUNCE, features=("f" * n,))),
    ("addresses", limits.MAX_ADDRESSES, lambda n: replace(ANNOUNCE, addresses=("127.0.0.1:1",) * n)),
    ("heard", limits.MAX_HEARD, lambda n: replace(ANNOUNCE, heard=((bytes(8), 1),) * n)),
    ("priority of a Request", limits.MAX_PRIORITY, lambda n: replace(REQUEST, priority=n)),
    ("priority of an Assign", limits.MAX_PRIORITY, lambda n: replace(ASSIGN, priority=n)),
    ("logprobs", limits.MAX_LOGPROBS, lambda n: replace(ASSIGN, config=replace(CONFIG, logprobs=n))),
    ("stop", limits.MAX_STOP_STRINGS, lambda n: replace(ASSIGN, config=replace(CONFIG, stop=("s",) * n))),
    (
        "logit_bias",
        limits.MAX_ARRAY,
        lambda n: replace(ASSIGN, config=replace(CONFIG, logit_bias=((1, 1.0),) * n)),
    ),
    (
        "chat messages",
        limits.MAX_CHAT_MESSAGES,
        lambda n: replace(ASSIGN, prompt=ChatPrompt((("user", ""),) * n)),
    ),
    ("prompt ids", limits.MAX_TOKEN_IDS, lambda n: replace(ASSIGN, prompt=IdsPrompt((7,) * n))),
    (
        "resume ids",
        limits.MAX_TOKEN_IDS,
        lambda n: replace(ASSIGN, resume=Resume(n, (7,) * n, "", None, None)),
    ),
    ("attempt", limits.MAX_U32, lambda n: replace(ASSIGN, attempt=n)),
    ("prompt id", limits.MAX_U32, lambda n: replace(ASSIGN, prompt=IdsPrompt((n,)))),
    ("u64", limits.MAX_U64, lambda n: replace(ASSIGN, deadline_ms=n)),
    ("tokens of a frame", limits.MAX_TOKEN_ARRAY, lambda n: replace(TOKEN, token_ids=(), texts=("",) * n)),
    (
        "token ids of a frame",
        limits.MAX_TOKEN_ARRAY,
        lambda n: replace(TOKEN, token_ids=(9,) * n, texts=("",) * n),
    ),
    (
        "logprobs of a frame",
        limits.MAX_TOKEN_ARRAY,
        lambda n: replace(TOKEN, token_ids=(), texts=("",) * n, logprobs=(TokenLogprob(0.0, ()),) * n),
    ),
    ("alternatives", limits.MAX_LOGPROBS, _token_logprobs),
    ("error sentence", limits.MAX_ERROR_BYTES, lambda n: replace(ERROR, error="e" * n)),
]


@pytest.mark.parametrize(("cap", "make"), [row[1:] for row in CAPS], ids=[row[0] for row in CAPS])
def test_the_last_value_within_a_cap_travels_and_the_next_is_not_even_sent(
    cap: int, make: Callable[[int], Message]
) -> None:
    fits = make(cap)
    assert decode_payload(kind_of(fits), encode_payload(fits)) == fits
    with pytest.raises(ProtocolError):
        encode_payload(make(cap + 1))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("announce", (3,), "n" * 41),
        ("announce", (4, 2, 0, 0), "m" * 41),
        ("announce", (4, 2), [["m", None, 1, "", None, 0]] * 33),
        ("announce", (6,), ["f"] * 17),
        ("announce", (6,), ["f" * 25]),
        ("announce", (8,), ["1"] * 9),
        ("announce", (10,), [[bytes(8), 1]] * 4),
        ("claim", (13,), ["1"] * 65),
        ("assign", (8,), [1, [["u", ""]] * 4097]),
        ("assign", (8,), [2, [1] * 262_145]),
        ("assign", (9, 5), ["s"] * 65),
        ("assign", (9, 7), 21),
        ("token_without_ids", (3,), [""] * 257),
        ("error", (1,), "e" * 257),
    ],
    ids=str,
)
def test_what_a_hostile_sender_puts_over_a_cap_is_refused(
    name: str, path: tuple[int, ...], value: object
) -> None:
    refused(name, replaced(name, path, value))


def test_an_array_of_64_extras_is_taken_and_one_of_65_is_not() -> None:
    grown = [*elements("leave"), [0] * limits.MAX_ARRAY]
    assert decode("leave", msgpack.packb(grown)) == SAMPLES["leave"]
    refused("leave", msgpack.packb([*elements("leave"), [0] * (limits.MAX_ARRAY + 1)]))


def test_a_payload_of_64_elements_is_taken_and_one_of_65_is_not() -> None:
    for name in ("leave", "assign_conversation", "token"):  # kinds with short and with long arrays alike
        payload = elements(name)
        padding = [0] * (limits.MAX_ARRAY - len(payload))
        assert decode(name, msgpack.packb(payload + padding)) == SAMPLES[name]
        refused(name, msgpack.packb([*payload, *padding, 0]))


def test_a_value_nested_six_deep_is_taken_and_seven_deep_is_not() -> None:
    extra: object = []  # the payload is 1, so this is 2
    for _ in range(limits.MAX_DEPTH - 2):
        extra = [extra]
    assert decode("leave", msgpack.packb([*elements("leave"), extra])) == SAMPLES["leave"]
    refused("leave", msgpack.packb([*elements("leave"), [extra]]))


@pytest.mark.parametrize(
    "first", [*range(0x80, 0x90), 0xC1, 0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9), 0xDE, 0xDF]
)
def test_no_map_extension_type_or_unused_byte_passes_the_check_of_the_structure(first: int) -> None:
    for padding in (0, 1, 2, 3, 5, 9, 17, 18, 40):
        with pytest.raises(ProtocolError) as caught:
            check_structure(b"\x91" + bytes([first]) + bytes(padding), limits.MAX_ARRAY)
        assert "map or an extension" in caught.value.message


def test_the_check_of_the_structure_wants_exactly_one_value() -> None:
    for good in (b"\x90", b"\x92\x01\xa1x", b"\xdc\x00\x40" + bytes(64), b"\x91\xc6\x00\x00\x00\x01x"):
        check_structure(good, limits.MAX_ARRAY)
        for junk in (good + b"\x00", good[:-1], b"\x91" + good + b"\xc0"):
            with pytest.raises(ProtocolError):
                check_structure(junk, limits.MAX_ARRAY)


@pytest.mark.parametrize("most", [64, 256, 4096])
def test_the_check_of_the_structure_takes_arrays_up_to_the_limit_it_is_given(most: int) -> None:
    for fill in (b"\x01", b"\xc0"):  # with and without the step over runs of integers
        check_structure(b"\x91\xdc" + most.to_bytes(2, "big") + fill * most, most)
        with pytest.raises(ProtocolError):
            check_structure(b"\x91\xdc" + (most + 1).to_bytes(2, "big") + fill * (most + 1), most)


def test_long_runs_of_ids_keep_their_exact_count_and_types() -> None:
    """Runs of 64 integers are skipped in one step when a payload is checked."""
    for count in (63, 64, 65, 127, 128, 129, 1000):
        ids = tuple((i * 2_654_435_761) % 2**32 for i in range(count))
        assign = replace(ASSIGN, prompt=IdsPrompt(ids))
        assert decode_payload(Kind.ASSIGN, encode_payload(assign)) == assign
        for position in (0, count // 2, count - 1):
            for wrong in (-1, 1.5, "x", None, {}, [1]):
                changed: list[object] = list(ids)
                changed[position] = wrong
                refused("assign", replaced("assign", (8,), [2, changed]))
