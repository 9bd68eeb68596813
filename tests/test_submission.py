"""Submission: what a user asks is checked before anything is sent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.errors import UsageError
from llama_gossip.protocol.messages import ChatPrompt, IdsPrompt, RawPrompt
from llama_gossip.submission import (
    Sampling,
    delivery_of,
    prompt_of,
    resume_class,
    submission,
    visibility_of,
    worker_id,
)


def test_a_string_is_one_user_message() -> None:
    assert prompt_of("Hello") == ChatPrompt((("user", "Hello"),))


def test_a_system_message_comes_first() -> None:
    assert prompt_of("Hello", system="Be brief") == ChatPrompt((("system", "Be brief"), ("user", "Hello")))


def test_raw_sends_the_string_as_it_is() -> None:
    assert prompt_of("Once", raw=True) == RawPrompt("Once")


def test_a_conversation_may_be_dictionaries_or_pairs() -> None:
    prompt = prompt_of([{"role": "user", "content": "a"}, ("assistant", "b")])
    assert prompt == ChatPrompt((("user", "a"), ("assistant", "b")))


def test_whole_numbers_are_token_ids() -> None:
    assert prompt_of([1, 2, 3]) == IdsPrompt((1, 2, 3))


@pytest.mark.parametrize(
    "prompt",
    [[], [{"role": "user"}], [("user",)], [1, "a"], [-1], [2**32], [True], "\ud800", [("user", "\ud800")]],
)
def test_what_is_no_prompt_is_refused_by_name(prompt: object) -> None:
    with pytest.raises(UsageError) as caught:
        prompt_of(prompt)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", -0.1),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("top_k", 0),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", ["x"] * 17),
        ("stop", ["\ud800"]),
        ("repetition", 0.0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        Sampling(**{field: value}).checked()  # type: ignore[arg-type]


def test_without_a_seed_one_is_drawn_so_that_the_answer_can_be_repeated() -> None:
    assert Sampling().checked().seed != Sampling().checked().seed


@given(
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1),
    max_tokens=st.integers(1, 2**31 - 1),
    seed=st.integers(0, 2**64 - 1),
)
def test_values_in_range_go_on_the_wire_unchanged(
    temperature: float, top_p: float, max_tokens: int, seed: int
) -> None:
    config = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed).checked()
    assert (config.temperature, config.top_p, config.max_tokens, config.seed) == (
        temperature,
        top_p,
        max_tokens,
        seed,
    )


def test_one_stop_string_need_not_be_a_list() -> None:
    assert Sampling(stop="END").checked().stop == ("END",)
    assert Sampling(stop=("", "END")).checked().stop == ("END",)


@pytest.mark.parametrize("worker", ["zz", "ab", b"short", "0" * 63])
def test_a_worker_is_named_by_its_whole_node_id(worker: str | bytes) -> None:
    with pytest.raises(UsageError, match="worker"):
        worker_id(worker)


def test_every_submission_has_its_own_request_id() -> None:
    options = {"model": None, "priority": 5, "deadline_s": 2.5, "worker": "ab" * 32}
    one, two = (submission(RawPrompt("x"), Sampling(), **options) for _ in range(2))  # type: ignore[arg-type]
    assert one.request_id != two.request_id
    assert len(one.request_id) == 16
    assert one.deadline_ms == 2500


@pytest.mark.parametrize(
    ("field", "value"), [("priority", 10), ("priority", -1), ("deadline_s", 0.0), ("deadline_s", math.nan)]
)
def test_priority_and_deadline_have_bounds(field: str, value: object) -> None:
    options = {"model": None, "priority": 5, "deadline_s": None, "worker": None, field: value}
    with pytest.raises(UsageError, match=field):
        submission(RawPrompt("x"), Sampling(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["exact", "ids", "text"])
def test_the_least_class_of_a_continuation_is_one_of_three_words(word: str) -> None:
    assert resume_class(word).word == word


@pytest.mark.parametrize("word", ["", "EXACT", "none"])
def test_another_word_is_refused_by_name(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        resume_class(word)
    assert "resume" in caught.value.message


@pytest.mark.parametrize("word", ["auto", "direct", "gossip"])
def test_how_an_answer_travels_is_one_of_three_words(word: str) -> None:
    asked = submission(
        RawPrompt("x"), Sampling(), model=None, priority=5, deadline_s=None, worker=None, delivery=word
    )
    assert asked.delivery == delivery_of(word) == word


@pytest.mark.parametrize("word", ["", "Gossip", "quic"])
def test_another_way_to_travel_is_refused_by_name(word: str) -> None:
    with pytest.raises(UsageError, match="delivery"):
        delivery_of(word)


@pytest.mark.parametrize(("word", "delivery"), [("secret", "auto"), ("", "auto"), ("public", "direct")])
def test_who_may_read_is_refused_by_name_where_it_cannot_be(word: str, delivery: str) -> None:
    with pytest.raises(UsageError, match="visibility"):
        visibility_of(word, delivery)


@pytest.mark.parametrize("word", ["private", "public"])
def test_who_may_read_is_one_of_two_words(word: str) -> None:
    assert visibility_of(word, "auto") == word
