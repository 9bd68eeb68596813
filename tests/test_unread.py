"""Unread: a reader that falls behind is told once, and once more when it has caught up by half."""

from __future__ import annotations

from llama_gossip.answer import Token
from llama_gossip.protocol.limits import MAX_UNREAD_BYTES, UNREAD_TOKEN_BYTES
from llama_gossip.unread import READ_ON_BYTES, Unread

PRICE = 1_000 + UNREAD_TOKEN_BYTES
FITTING = MAX_UNREAD_BYTES // PRICE


def token(index: int, text: str = "x" * 1_000) -> Token:
    return Token(index, index, text)


def test_what_is_put_comes_out_in_order() -> None:
    unread = Unread(lambda full: None)
    assert not unread
    unread.put([token(0), token(1)])
    unread.put([token(2)])
    assert [unread.take().index for _ in range(len(unread))] == [0, 1, 2]
    assert not unread


def test_full_and_ready_are_told_once_each_and_again_the_next_time() -> None:
    told: list[bool] = []
    unread = Unread(told.append)
    for _ in range(2):
        unread.put(token(n) for n in range(FITTING))
        assert told == []
        unread.put([token(0)])
        unread.put([token(0)])
        assert told == [True]
        while len(unread) * PRICE - PRICE >= READ_ON_BYTES:
            unread.take()
        assert told == [True]
        unread.take()
        assert told == [True, False]
        while unread:
            unread.take()
        assert told == [True, False]
        told.clear()


def test_bytes_count_not_characters_and_an_empty_token_is_not_free() -> None:
    told: list[bool] = []
    unread = Unread(told.append)
    unread.put(token(n, "京" * 1_000) for n in range(MAX_UNREAD_BYTES // 3_000))
    assert told == [True]
    told.clear()
    unread = Unread(told.append)
    unread.put(token(n, "") for n in range(MAX_UNREAD_BYTES // UNREAD_TOKEN_BYTES))
    assert told == []
    unread.put([token(0, "")])
    assert told == [True]
