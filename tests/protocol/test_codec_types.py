"""Payloads, field by field: exact types, nothing missing, growth at the tail only and within the limits."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest

from llama_gossip.protocol.codec import encode_payload
from llama_gossip.protocol.messages import Kind, Request
from tests.protocol.wire_samples import FRAMES
from tests.protocol.wire_tamper import SAMPLES, decode, elements, kind, refused, replaced

# --- exact types ---------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
A_UINT = [True, False, -1, 1.0, "1", b"1", None, [], 1.5]
A_FLOAT = [1, 0, True, NAN, INF, -INF, "1.0", None, [1.0]]
A_TEXT = [b"text", 1, None, True, ["t"]]
A_BOOL = [0, 1, None, "true", 1.0]
A_KEY = [b"", bytes(31), bytes(33), "k" * 32, None, 1, [bytes(32)]]
A_GROUP = [None, 1, "x", b"", {}, []]

WRONG: list[tuple[str, tuple[int, ...], list[object]]] = [
    *[(name, (i,), A_UINT) for name in ("announce", "leave", "request", "claim", "assign") for i in range(3)],
    ("announce", (3,), A_TEXT),
    ("announce", (4,), A_GROUP),
    ("announce", (4, 0), A_TEXT),
    ("announce", (4, 1), A_TEXT),
    ("announce", (4, 2), [None, 1, {}, "x", [[]], [1]]),
    ("announce", (4, 2, 0, 0), A_TEXT),
    ("announce", (4, 2, 0, 1), [b"", bytes(31), "d" * 32, 1]),
    ("announce", (4, 2, 0, 2), A_UINT),
    ("announce", (4, 2, 0, 3), A_TEXT),
    ("announce", (4, 2, 0, 4), [b"x", 1, True]),
    ("announce", (4, 2, 0, 5), [3, -1, True, None, "exact", 0.0]),
    *[("announce", (4, i), A_UINT) for i in (3, 4, 5, 6, 8)],
    ("announce", (4, 7), A_FLOAT),
    ("announce", (5,), [4, -1, True, None, 1.0]),
    ("announce", (6,), [None, "x", [1], [b"x"], [None], ["é"]]),
    ("announce", (7,), A_KEY),
    ("announce", (8,), [None, "1.2.3.4:5", [1], [b"x"]]),
    ("announce", (9,), A_UINT),
    ("announce", (10,), [None, 1, [[]], [[b"12345678"]], [[b"1234567", 1]], [[b"12345678", -1]], [1]]),
    ("announce_conversations", (11,), [None, 1, b"12345678", ["12345678"], [b"1234567"], [b"1"] * 17]),
    ("assign_conversation", (16,), [None, 1, "12345678", b"1234567", b"123456789", [b"12345678"]]),
    ("leave", (3,), A_TEXT),
    ("request", (3,), [b"", bytes(15), bytes(17), "r" * 16, None]),
    ("request", (4,), A_TEXT),
    ("request", (5,), A_UINT),
    ("request", (6,), [None, 50, [], [None], [True], [-1], [1.0]]),
    ("request", (7,), [*A_UINT, 10, 255]),
    ("request", (8,), A_UINT),
    ("request", (9,), A_KEY),
    ("request", (10,), [1, "prompt", [], [0], [3, "x"], [0, b"x"], [True, "x"], [2, "x"], [1, "x"]]),
    ("request", (11,), [1, [], [1], "x"]),
    ("claim", (3,), A_KEY),
    ("claim", (4,), [b"", bytes(15), bytes(17)]),
    ("claim", (5,), A_KEY),
    ("claim", (6,), A_UINT),
    ("claim", (7,), A_UINT),
    ("claim", (8,), A_FLOAT),
    ("claim", (9,), [b"", bytes(33), 1]),
    ("claim", (10,), [b"x", 1]),
    ("claim", (11,), [3, None, True]),
    ("claim", (12,), A_KEY),
    ("claim", (13,), [None, [1]]),
    ("assign", (3,), [b"", None]),
    ("assign", (4,), [*A_UINT, 0, 2**32]),
    ("assign", (5,), A_KEY),
    ("assign", (6,), A_UINT),
    ("assign", (7,), A_UINT),
    ("assign", (8,), [None, [], [1, [["user"]]], [1, [["user", 1]]], [1, ["user"]], [2, [-1]], [2, [2**32]]]),
    ("assign", (8,), [[2, [True]], [2, [1.0]], [2, [None]], [2, 1], [0, None], [0, 1]]),
    ("assign", (9,), A_GROUP),
    ("assign", (9, 0), A_UINT),
    *[("assign", (9, i), A_FLOAT) for i in (1, 2, 8, 9, 10, 11)],
    ("assign", (9, 3), [True, -1, 1.0, "1"]),
    ("assign", (9, 4), A_UINT),
    ("assign", (9, 5), [None, "stop", [1], [b"x"]]),
    ("assign", (9, 6), A_BOOL),
    ("assign", (9, 7), [True, -1, 21, 1.0]),
    ("assign", (9, 12), [None, 1, [[1]], [[1, 1]], [[-1, 1.0]], [[2**32, 1.0]], [[1, NAN]], [[True, 1.0]]]),
    ("assign_resume", (10,), [1, [], [1, [], "", None]]),
    ("assign_resume", (10, 0), [*A_UINT, 2, 4]),
    ("assign_resume", (10, 1), [None, [1, 2], [1, 2, 3, 4], [1, 2, True], [1, 2, -3], "abc", b"abc"]),
    ("assign_resume", (10, 2), A_TEXT),
    ("assign_resume", (10, 3), [b"", 1]),
    ("assign_resume", (10, 4), [b"", 1]),
    ("assign", (11,), [*A_UINT, 10]),
    ("assign", (12,), A_UINT),
    ("assign", (13,), A_TEXT),
    ("assign", (14,), [b"", bytes(31), "d"]),
    ("assign", (15,), [*A_TEXT, "", "2026-1-1", "20261124", "2026-13-01", "2026-11-32", "2026-11-24\n"]),
    ("assign", (15,), ["٢٠٢٦-١١-٢٤"]),
    *[(name, (0,), A_UINT) for name in FRAMES],
    ("reject", (1,), [8, -1, None, True]),
    ("reject", (2,), A_UINT),
    ("reject", (3,), A_UINT),
    ("progress", (1,), [3, None, False]),
    ("progress", (2,), A_UINT),
    ("progress", (3,), A_UINT),
    ("progress_facts", (4,), A_UINT),
    ("progress_facts", (5,), [b"", 1]),
    ("progress_facts", (6,), [b"", 1]),
    ("progress_facts", (7,), [b"", 1]),
    ("progress_facts", (8,), [3, None]),
    ("token", (1,), A_UINT),
    ("token", (2,), [None, [1], [1, 2, 3, 4, 5], [1, 2, 3, -4], [1, 2, 3, True], [1, 2, 3, 2**32], "abcd"]),
    ("token", (3,), [None, [], ["a"], ["a", "b", "c", b"d"], "abcd"]),
    ("token_without_ids", (3,), [[]]),
    ("token_logprobs", (4,), [[], [[-1.0, []]], [[-1.0, []]] * 3, [1, 2], [[0, []], [0.0, []]], "ab"]),
    ("token_logprobs", (4, 0), A_GROUP),
    ("token_logprobs", (4, 0, 0), A_FLOAT),
    ("token_logprobs", (4, 0, 1), [None, 1, [1], [["x"]], [["x", 1]], [[b"x", 1.0]]]),
    ("ack", (1,), A_UINT),
    ("complete", (1,), [*A_UINT, 41]),
    ("complete", (2,), A_FLOAT),
    ("complete", (3,), [3, None, True]),
    ("complete", (4,), [None, 1, [], [1], [37, 43], [True, 42], [37, 42.0]]),
    ("complete", (5,), A_KEY),
    ("complete", (6,), [b"", 1]),
    ("error", (1,), A_TEXT),
    ("error", (2,), A_TEXT),
    ("error", (3,), A_BOOL),
    ("cancel", (1,), A_TEXT),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "values"), WRONG, ids=lambda value: str(value)[:24])
def test_a_field_of_another_type_or_range_is_refused(
    name: str, path: tuple[int, ...], values: list[object]
) -> None:
    for value in values:
        refused(name, replaced(name, path, value))


@pytest.mark.parametrize("name", SAMPLES)
def test_none_of_the_listed_elements_may_be_missing_optional_ones_included(name: str) -> None:
    payload = elements(name)
    for count in range(len(payload)):
        if kind(name) is Kind.PROGRESS and count == 4:
            continue  # the facts of a Progress may be left out as a whole
        if name in ("announce_conversations", "assign_conversation") and count == len(payload) - 1:
            continue  # a node that has none, or knows of none
        refused(name, msgpack.packb(payload[:count], use_bin_type=True))


def test_a_progress_has_four_elements_or_at_least_nine() -> None:
    payload = elements("progress_facts")
    for count in (5, 6, 7, 8):
        refused("progress", msgpack.packb(payload[:count], use_bin_type=True))
    longer = decode("progress", msgpack.packb([*payload, "later"], use_bin_type=True))
    assert longer == FRAMES["progress_facts"]


# --- growth at the tail, and its limits ----------------------------------------------------------

GROUPS = [
    ("announce", (4,)),
    ("announce", (4, 2, 0)),
    ("announce", (10, 0)),
    ("request", (6,)),
    ("request_public", (10,)),
    ("request_public", (11, 12, 0)),
    ("assign", (8, 1, 0)),
    ("assign_resume", (10,)),
    ("token_logprobs", (4, 0)),
    ("token_logprobs", (4, 0, 1, 0)),
    ("complete", (4,)),
]
WITHOUT_TAIL = ("progress", "announce", "announce_client", "assign", "assign_resume")  # theirs may be missing
ROOTS = [(name, ()) for name in SAMPLES if name not in WITHOUT_TAIL]


@pytest.mark.parametrize(("name", "path"), [*GROUPS, *ROOTS])
def test_extra_elements_at_the_tail_are_ignored(name: str, path: tuple[int, ...]) -> None:
    for extra in (None, True, 7, "later", b"later", 1.5, [], [1, ["x"]][: 6 - len(path) - 2]):
        assert decode(name, with_extra(name, path, extra)) == SAMPLES[name]


@pytest.mark.parametrize(("name", "path"), [*GROUPS, *ROOTS])
def test_extra_elements_keep_the_type_limits(name: str, path: tuple[int, ...]) -> None:
    nested: list[object] = []
    for _ in range(6):
        nested = [nested]
    for extra in (
        NAN,
        INF,
        {},
        {"a": 1},
        msgpack.ExtType(1, b"x"),
        msgpack.Timestamp(1),
        [0] * 65,
        [[NAN]],
        nested,
    ):
        refused(name, with_extra(name, path, extra))


def test_fit_stands_behind_the_config_only_where_it_is_set() -> None:
    plain = SAMPLES["request_public"]
    assert isinstance(plain, Request)
    assert plain.config is not None
    fitting = replace(plain, config=replace(plain.config, fit=True))
    assert encode_payload(fitting) == with_extra("request_public", (11,), True)
    assert decode("request_public", encode_payload(fitting)) == fitting
    assert decode("request_public", with_extra("request_public", (11,), False)) == plain
    for wrong in A_BOOL:
        refused("request_public", with_extra("request_public", (11,), wrong))
    longer = msgpack.unpackb(encode_payload(fitting), use_list=True)
    longer[11].append("later")
    assert decode("request_public", msgpack.packb(longer, use_bin_type=True)) == fitting


def with_extra(name: str, path: tuple[int, ...], extra: object) -> bytes:
    payload = elements(name)
    inner = payload
    for step in path:
        inner = inner[step]
    inner.append(extra)
    return msgpack.packb(payload, use_bin_type=True)  # type: ignore[no-any-return]
