"""Wire: every message comes out of a pipe as it went in; whatever else comes is refused, or is the end."""

from __future__ import annotations

import enum
import math
import socket
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip import errors
from llama_gossip.engine import wire
from llama_gossip.engine.base import EngineEvent, JobTokens
from llama_gossip.engine.fieldwise import form_of
from llama_gossip.errors import ConfigError, LlamaGossipError, ModelUnavailable, ProtocolError
from tests.engine.driving import job

LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=8),
    bytes: st.binary(max_size=8),
    bool: st.booleans(),
}
KINDS = [*get_args(wire.ToChild), *get_args(wire.ToParent)]


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a type: every field drawn, whether it has a default or not."""
    if hint in LEAVES:
        return LEAVES[hint]
    inner = get_args(hint)
    if get_origin(hint) is tuple:
        if inner[1:] == (...,):
            return st.lists(values_of(inner[0]), max_size=3).map(tuple)
        return st.tuples(*map(values_of, inner))
    if get_origin(hint) in (Union, UnionType):
        return st.one_of(*map(values_of, inner))
    if hint is type(None):
        return st.none()
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    assert is_dataclass(hint), hint
    hints = get_type_hints(hint)
    return st.builds(hint, **{field.name: values_of(hints[field.name]) for field in fields(hint)})


def form_for(kind: type) -> Any:
    return wire.TO_CHILD if kind in get_args(wire.ToChild) else wire.TO_PARENT


@pytest.fixture
def pipes() -> Iterator[tuple[socket.socket, wire.Pipe]]:
    """What a child would write to, and its parent's end."""
    ours, theirs = socket.socketpair()
    pipe = wire.Pipe(ours, wire.TO_PARENT)
    with theirs:
        yield theirs, pipe
    pipe.close()


@pytest.mark.parametrize("kind", [*KINDS, *get_args(EngineEvent)], ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=20)
def test_every_kind_comes_out_as_it_went_in(kind: type, data: st.DataObject) -> None:
    value = data.draw(values_of(kind))
    if kind in get_args(EngineEvent):
        value = wire.Batch((value, value), None)
    form = form_for(type(value))
    ours, theirs = socket.socketpair()
    pipe = wire.Pipe(ours, form)
    with theirs:
        theirs.sendall(wire.framed(form, value))
    out = pipe.receive()
    assert out == value
    assert type(out) is type(value)
    assert pipe.receive() is None
    pipe.close()


def test_a_nan_of_a_job_stays_one() -> None:
    submit = wire.Submit(job(1, temperature=math.nan))
    told = wire.TO_CHILD.decode(tuple_of(wire.TO_CHILD.encode(submit)))
    assert math.isnan(told.job.config.temperature)


def tuple_of(told: Any) -> Any:
    return tuple(map(tuple_of, told)) if isinstance(told, tuple | list) else told


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_arbitrary_bytes_are_refused_or_are_a_message(payload: bytes) -> None:
    ours, theirs = socket.socketpair()
    pipe = wire.Pipe(ours, wire.TO_PARENT)
    with theirs:
        theirs.sendall(len(payload).to_bytes(4, "big") + payload)
    try:
        message = pipe.receive()
    except ProtocolError:
        message = None
    assert message is None or type(message) in get_args(wire.ToParent)
    pipe.close()


@given(st.data())
@settings(max_examples=200)
def test_no_field_gets_a_value_of_another_type(data: st.DataObject) -> None:
    """One leaf of a batch's array is put in another's place."""
    event = JobTokens(1, 2, (3, 4), ("a", "b"), None)
    told = [1, 2, (3, 4), ("a", "b"), None]
    place = data.draw(st.integers(0, 4))
    told[place] = data.draw(st.sampled_from(["x", b"x", 1.5, True, ("a",), (1.5,), ((),), [1]]))
    try:
        out = form_of(JobTokens).decode(tuple(told))
    except ProtocolError:
        return
    assert all(type(one) is int for one in (out.job_id, out.index, *out.token_ids))
    assert all(type(text) is str for text in out.texts)
    assert out != event


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        (wire.MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\0",
        b"\0\0\0\x01\x90",
        b"\0\0\0\x02\x92\x01",
        b"\0\0\0\x05\xdd\xff\xff\xff\xff",  # an array of four thousand million elements
        b"\0\0\0\x03\x92\x63\x90",  # no such kind
    ],
    ids=lambda sent: sent.hex(),
)
def test_what_is_no_message_is_refused_before_anything_is_built(
    pipes: tuple[socket.socket, wire.Pipe], sent: bytes
) -> None:
    theirs, pipe = pipes
    theirs.sendall(sent)
    with pytest.raises(ProtocolError):
        pipe.receive()


@pytest.mark.parametrize("cut", [0, 1, 4, 9])
def test_a_message_that_is_cut_is_the_end(pipes: tuple[socket.socket, wire.Pipe], cut: int) -> None:
    theirs, pipe = pipes
    theirs.sendall(wire.framed(wire.TO_PARENT, wire.Progressed("load", 1, 2))[:cut])
    theirs.close()
    assert pipe.receive() is None


def test_an_end_that_was_told_lets_the_rest_be_read(pipes: tuple[socket.socket, wire.Pipe]) -> None:
    theirs, pipe = pipes
    pipe.end()
    pipe.end()
    assert theirs.recv(1) == b""
    with pytest.raises(OSError):
        pipe.send(b"late")
    theirs.sendall(wire.framed(wire.TO_PARENT, wire.Progressed("load", 1, 2)))
    assert pipe.receive() == wire.Progressed("load", 1, 2)


@pytest.mark.parametrize(
    "bad",
    [job(1, seed=2**64), job(1, "\ud800"), job(1, temperature=object()), job(1, "x" * 1000)],
    ids=["seed", "surrogate", "object", "size"],
)
def test_a_job_that_cannot_be_told_is_a_value_error(bad: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 1000)
    with pytest.raises(ValueError):
        wire.framed(wire.TO_CHILD, wire.Submit(bad))


class Narrower(ModelUnavailable):
    """Of a module of its own: the other side does not know it."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelUnavailable("no such model", hint="take another"), ModelUnavailable),
        (ConfigError("a bad key", code="key"), ConfigError),
        (Narrower("cut short"), ModelUnavailable),
        (RuntimeError("out of luck"), errors.EngineError),
    ],
)
def test_an_error_of_the_load_is_the_same_on_the_other_side(
    error: Exception, kind: type[LlamaGossipError]
) -> None:
    again = wire.Refused.of(error).error()
    assert type(again) is kind
    if isinstance(error, LlamaGossipError):
        same = (again.message, again.hint, again.code, again.exit_code)
        assert same == (error.message, error.hint, error.code, error.exit_code)
    else:
        assert "RuntimeError: out of luck" in again.message


def test_a_kind_of_error_that_nobody_knows_is_an_engine_error() -> None:
    assert type(wire.Refused("SystemExit", "m", "h", "c").error()) is errors.EngineError
    assert type(wire.Refused("annotations", "m", "h", "c").error()) is errors.EngineError
