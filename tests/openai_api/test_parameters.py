"""Parameters: defaults, exact types, bounds, and what is refused because it would change the answer."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from llama_gossip.openai_api import ApiError, Asked, chat_asked, completion_asked
from tests.openai_api.asking import Read, chat, completion, refusal

BOTH = pytest.mark.parametrize("ask", [chat, completion])

WHOLE = ["max_tokens", "max_completion_tokens", "seed", "top_k", "n"]
NUMBERS = {
    "temperature": ("temperature", 0, 2),
    "top_p": ("top_p", 0, 1),
    "min_p": ("min_p", 0, 1),
    "presence_penalty": ("presence", -2, 2),
    "frequency_penalty": ("frequency", -2, 2),
    "repetition_penalty": ("repetition", 0.01, 10),
}
FLAGS = ["stream", "ignore_eos"]
OPTIONAL = [*WHOLE, *NUMBERS, *FLAGS, "stop", "logit_bias", "stream_options", "logprobs"]


@BOTH
def test_what_is_absent_has_the_defaults_of_the_interface(ask: Any) -> None:
    asked = ask()
    assert asked.max_tokens == (None if ask is chat else 16)
    assert (asked.temperature, asked.top_p, asked.top_k, asked.min_p) == (1.0, 1.0, None, 0.0)
    assert (asked.repetition, asked.presence, asked.frequency) == (1.0, 0.0, 0.0)
    assert (asked.seed, asked.stop, asked.logit_bias, asked.logprobs) == (None, (), (), None)
    assert (asked.stream, asked.include_usage, asked.ignore_eos) == (False, False, False)


@BOTH
@pytest.mark.parametrize("field", OPTIONAL)
def test_null_is_the_same_as_absent(ask: Any, field: str) -> None:
    assert ask(**{field: None}) == ask()


@pytest.mark.parametrize("field", ["top_logprobs", "tools", "functions", "tool_choice", "response_format"])
def test_null_is_the_same_as_absent_in_a_chat(field: str) -> None:
    assert chat(**{field: None}) == chat()


@pytest.mark.parametrize("field", ["echo", "suffix", "best_of"])
def test_null_is_the_same_as_absent_in_a_completion(field: str) -> None:
    assert completion(**{field: None}) == completion()


@BOTH
@pytest.mark.parametrize("field", WHOLE)
@pytest.mark.parametrize("value", [True, 1.5, 1.0, "1", [1], {}])
def test_only_an_integer_is_an_integer(ask: Any, field: str, value: object) -> None:
    error = refusal(ask, **{field: value})
    assert (error.param, error.code) == (field, "invalid_type")


@BOTH
@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize("value", [1, 0, "yes", "true", [], {}])
def test_only_true_and_false_are_booleans(ask: Any, field: str, value: object) -> None:
    error = refusal(ask, **{field: value})
    assert (error.param, error.code) == (field, "invalid_type")


@BOTH
@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_is_taken_up_to_its_bounds_and_no_further(ask: Any, field: str) -> None:
    name, least, most = NUMBERS[field]
    for value in (least, most, (least + most) / 2):
        taken = getattr(ask(**{field: value}), name)
        assert taken == value
        assert type(taken) is float
    for value in (least - 0.001, most + 0.001, -(10**400), 10**400):
        error = refusal(ask, **{field: value})
        assert (error.param, error.code) == (field, "invalid_value")
    for value in (True, "1", [], {}):
        error = refusal(ask, **{field: value})
        assert (error.param, error.code) == (field, "invalid_type")


@BOTH
def test_seeds_are_unsigned_and_of_64_bits(ask: Any) -> None:
    assert [ask(seed=seed).seed for seed in (0, 2**64 - 1)] == [0, 2**64 - 1]
    for seed in (-1, 2**64):
        assert refusal(ask, seed=seed).param == "seed"


@BOTH
def test_max_completion_tokens_wins_over_max_tokens_and_both_are_checked(ask: Any) -> None:
    assert ask(max_tokens=5).max_tokens == 5
    assert ask(max_tokens=5, max_completion_tokens=7).max_tokens == 7
    assert ask(max_tokens=5, max_completion_tokens=None).max_tokens == 5
    for field in ("max_tokens", "max_completion_tokens"):
        for value in (0, -1):
            assert refusal(ask, **{"max_completion_tokens": 7, field: value}).param == field


@BOTH
def test_more_tokens_than_any_context_has_are_as_many_as_there_can_be(ask: Any) -> None:
    assert ask(max_tokens=10**30).max_tokens == 2**31 - 1


@BOTH
def test_top_k_knows_two_ways_to_say_all(ask: Any) -> None:
    assert [ask(top_k=value).top_k for value in (-1, 0, 1, 50)] == [None, None, 1, 50]
    assert refusal(ask, top_k=-2).param == "top_k"


@BOTH
def test_stop_is_one_text_or_up_to_four_and_empty_ones_do_nothing(ask: Any) -> None:
    assert ask(stop="end").stop == ("end",)
    assert ask(stop=["a", "", "b", "c"]).stop == ("a", "b", "c")
    assert ask(stop="").stop == ask(stop=["", ""]).stop == ()
    for value, param in ((["a"] * 5, "stop"), ([], "stop"), (1, "stop"), (["a", 1], "stop[1]"), ({}, "stop")):
        assert refusal(ask, stop=value).param == param


@BOTH
def test_logit_bias_maps_token_ids_to_numbers(ask: Any) -> None:
    assert ask(logit_bias={"0": -100, "50256": 1.5}).logit_bias == ((0, -100.0), (50256, 1.5))
    assert ask(logit_bias={}).logit_bias == ()
    for key in ("", "-1", "01", "1.0", " 1", "a", "1\n", "٣", "1000000000"):
        assert refusal(ask, logit_bias={key: 1}).param == "logit_bias"
    for bias in (100.1, -101, "1", None, True):
        assert refusal(ask, logit_bias={"7": bias}).param == "logit_bias.7"
    assert refusal(ask, logit_bias=[1]).param == "logit_bias"


@BOTH
def test_logit_bias_is_no_longer_than_the_wire_takes_it(ask: Any) -> None:
    assert len(ask(logit_bias={str(n): 1 for n in range(64)}).logit_bias) == 64
    assert refusal(ask, logit_bias={str(n): 1 for n in range(65)}).param == "logit_bias"


def test_logprobs_of_a_chat_are_a_boolean_and_a_number_of_alternatives() -> None:
    assert chat(logprobs=True).logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).logprobs == 20
    assert chat(logprobs=False).logprobs is None
    assert refusal(chat, logprobs=1).param == "logprobs"
    for value in (-1, 21, True, 1.5):
        assert refusal(chat, logprobs=True, top_logprobs=value).param == "top_logprobs"
    for logprobs in (False, None):
        assert refusal(chat, logprobs=logprobs, top_logprobs=0).param == "top_logprobs"


def test_logprobs_of_a_completion_are_a_number() -> None:
    assert [completion(logprobs=n).logprobs for n in (0, 5, None)] == [0, 5, None]
    for value in (6, -1, True, 1.5, "1"):
        assert refusal(completion, logprobs=value).param == "logprobs"


@BOTH
def test_usage_is_told_in_a_stream_that_asks_for_it(ask: Any) -> None:
    asked = ask(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert (asked.stream, asked.include_usage) == (True, True)
    for options in ({}, {"include_usage": False}, {"include_usage": None}, None):
        assert not ask(stream=True, stream_options=options).include_usage
    error = refusal(ask, stream=True, stream_options={"include_usage": 1})
    assert error.param == "stream_options.include_usage"
    assert refusal(ask, stream=True, stream_options=[]).param == "stream_options"


@BOTH
def test_stream_options_without_a_stream_are_refused(ask: Any) -> None:
    assert refusal(ask, stream_options={"include_usage": True}).param == "stream_options"


@BOTH
@pytest.mark.parametrize("n", [0, 2, 128, -1])
def test_there_is_one_answer_a_request(ask: Any, n: int) -> None:
    assert refusal(ask, n=n).param == "n"
    assert ask(n=1) == ask()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tools", {}),
        ("functions", [{"name": "f"}]),
        ("tool_choice", "required"),
        ("tool_choice", "auto"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("function_call", "auto"),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("response_format", {}),
        ("response_format", "text"),
        ("modalities", ["text", "audio"]),
        ("modalities", "audio"),
        ("audio", {"voice": "alloy", "format": "wav"}),
    ],
)
def test_what_a_chat_cannot_have_is_refused_by_name(field: str, value: object) -> None:
    assert refusal(chat, **{field: value}).param == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("echo", True), ("echo", 1), ("suffix", "end"), ("suffix", 1), ("best_of", 2), ("best_of", 1.0)],
)
def test_what_a_completion_cannot_have_is_refused_by_name(field: str, value: object) -> None:
    assert refusal(completion, **{field: value}).param == field


def test_what_asks_for_nothing_is_not_refused() -> None:
    empty = {
        "tools": [],
        "functions": [],
        "tool_choice": "none",
        "function_call": "none",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "audio": None,
    }
    assert chat(**empty) == chat()
    assert completion(echo=False, suffix="", best_of=1) == completion()


@BOTH
def test_fields_without_effect_and_unknown_ones_are_not_looked_at(ask: Any) -> None:
    fields = {"user": 1, "store": "x", "metadata": [], "service_tier": {}, "parallel_tool_calls": 7}
    assert ask(**fields, unknown=[{"a": None}]) == ask()


@BOTH
@pytest.mark.parametrize("model", [None, "", 1, True, [], {}])
def test_a_model_is_named(ask: Any, model: object) -> None:
    assert refusal(ask, model=model).param == "model"


@pytest.mark.parametrize("read", [chat_asked, completion_asked])
def test_a_name_that_nobody_could_announce_is_no_model(read: Read) -> None:
    longest = "é" * 20
    body = {"messages": [{"role": "user", "content": "a"}], "prompt": "a"}
    assert read(json.dumps({**body, "model": longest}).encode()).model == longest
    with pytest.raises(ApiError) as caught:
        read(json.dumps({**body, "model": longest + "a"}).encode())
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


def test_what_was_asked_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        chat().model = "other"  # type: ignore[misc]
    assert isinstance(chat(), Asked)
