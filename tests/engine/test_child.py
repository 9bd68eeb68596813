"""The engine's process from inside: what it cannot do any more it says, and ends."""

from __future__ import annotations

import logging
import os
import socket
from typing import NoReturn

import pytest

from llama_gossip.engine import child, load_engine, wire


class Exited(BaseException):
    """In place of the end of this process."""


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []

    def leave(code: int) -> NoReturn:
        seen.append(code)
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    return seen


def test_an_engine_whose_model_thread_has_ended_takes_its_process_along(codes: list[int]) -> None:
    near, far = socket.socketpair()
    with near, far:
        engine = load_engine("scripted")
        line = child.Line(wire.Pipe(near, wire.TO_CHILD))
        child.report(engine, line)
        assert codes == []
        engine.close()
        with pytest.raises(Exited):
            child.report(engine, line)
    assert codes == [child.BROKEN]


def test_an_order_that_cannot_be_followed_is_logged_before_the_end(
    codes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(wire.framed(wire.TO_CHILD, wire.Start()))
        orders = child.Orders(child.Line(wire.Pipe(far, wire.TO_CHILD)))
        with caplog.at_level(logging.ERROR), pytest.raises(Exited):
            orders.follow(wire.Pipe(far, wire.TO_CHILD))
    assert codes == [child.BROKEN]
    assert "before there is an engine" in caplog.text
