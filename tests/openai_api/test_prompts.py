"""What a model is given: the messages of a chat, the prompts of a completion. All the text, nothing else."""

from __future__ import annotations

import pytest

from llama_gossip.openai_api import chat_asked, completion_asked
from llama_gossip.protocol.codec import encode_payload
from llama_gossip.protocol.limits import MAX_CHAT_MESSAGES, MAX_TOKEN_IDS
from llama_gossip.protocol.messages import (
    Assign,
    ChatPrompt,
    GenerationConfig,
    Head,
    IdsPrompt,
    NodeId,
    Prompt,
    RawPrompt,
    RequestId,
)
from tests.openai_api.asking import chat, completion, refusal, refusal_of


def said(*messages: object) -> tuple[tuple[str, str], ...]:
    (prompt,) = chat(messages=list(messages)).prompts
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


def test_the_roles_of_a_chat() -> None:
    roles = ("system", "developer", "user", "assistant", "tool")
    conversation = said(*({"role": role, "content": role} for role in roles))
    assert conversation == (
        ("system", "system"),
        ("system", "developer"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("tool", "tool"),
    )


@pytest.mark.parametrize("role", ["function", "User", "", 1, None])
def test_another_role_is_refused(role: object) -> None:
    assert refusal(chat, messages=[{"role": role, "content": "a"}]).param == "messages[0].role"


def test_text_parts_equal_the_string() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two", "annotations": []}]
    assert said({"role": "user", "content": parts}) == said({"role": "user", "content": "one two"})


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (None, "messages[1].content"),
        (1, "messages[1].content"),
        ({}, "messages[1].content"),
        ([], "messages[1].content"),
        (["text"], "messages[1].content[0]"),
        ([{"type": "text"}], "messages[1].content[0].text"),
        ([{"type": "text", "text": None}], "messages[1].content[0].text"),
        ([{"text": "a"}], "messages[1].content[0].type"),
        (
            [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}],
            "messages[1].content[1].type",
        ),
        (
            [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
            "messages[1].content[0].type",
        ),
        ([{"type": "file", "file": {"file_id": "f"}}], "messages[1].content[0].type"),
    ],
)
def test_content_that_is_not_text_is_refused_where_it_stands(content: object, param: str) -> None:
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": content}]
    assert refusal(chat, messages=messages).param == param


@pytest.mark.parametrize("content", [None, "text"])
def test_an_assistant_that_calls_tools_is_refused(content: str | None) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [{"role": "assistant", "content": content, "tool_calls": calls}]
    assert refusal(chat, messages=messages).param == "messages[0].tool_calls"


def test_an_answer_may_be_sent_back_as_the_client_got_it() -> None:
    back = {"role": "assistant", "content": "a", "refusal": None, "tool_calls": [], "audio": None, "x": 1}
    assert said(back) == (("assistant", "a"),)


def test_a_name_is_accepted_and_is_a_string() -> None:
    assert said({"role": "user", "content": "a", "name": "ann"}) == (("user", "a"),)
    error = refusal(chat, messages=[{"role": "user", "content": "a", "name": 1}])
    assert error.param == "messages[0].name"


@pytest.mark.parametrize("messages", [None, [], {}, "hello", 1])
def test_a_chat_has_messages(messages: object) -> None:
    assert refusal(chat, messages=messages).param == "messages"
    assert refusal_of(chat_asked, b'{"model": "tiny"}').param == "messages"


def test_a_message_is_an_object() -> None:
    assert refusal(chat, messages=["hello"]).param == "messages[0]"


# --- completions -------------------------------------------------------------------------------


def test_the_prompts_of_a_completion() -> None:
    assert completion(prompt="a").prompts == (RawPrompt("a"),)
    assert completion(prompt=[1, 2]).prompts == (IdsPrompt((1, 2)),)
    assert completion(prompt=["a", "b"]).prompts == (RawPrompt("a"), RawPrompt("b"))
    assert completion(prompt=[[1], [2, 3]]).prompts == (IdsPrompt((1,)), IdsPrompt((2, 3)))


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        ([], "prompt"),
        ({}, "prompt"),
        (1, "prompt"),
        (["a", 1], "prompt[1]"),
        ([1, "a"], "prompt[1]"),
        ([1, True], "prompt[1]"),
        ([1, 1.0], "prompt[1]"),
        ([1, -1], "prompt[1]"),
        ([2**32], "prompt[0]"),
        ([None], "prompt[0]"),
        ([[1], []], "prompt[1]"),
        ([[1], "a"], "prompt[1]"),
        ([[1, "a"]], "prompt[0][1]"),
        ([["a"]], "prompt[0][0]"),
        (["a"] * 17, "prompt"),
    ],
)
def test_another_prompt_is_refused_where_it_is_wrong(prompt: object, param: str) -> None:
    assert refusal(completion, prompt=prompt).param == param


def test_a_completion_has_a_prompt() -> None:
    assert refusal_of(completion_asked, b'{"model": "tiny"}').param == "prompt"


# --- sizes -------------------------------------------------------------------------------------


def sendable(prompt: Prompt) -> bytes:
    """As the largest message of the wire carries it."""
    assign = Assign(
        head=Head(1, 1, 1),
        request_id=RequestId(bytes(16)),
        attempt=1,
        worker=NodeId(bytes(32)),
        worker_boot=1,
        accept_by=1,
        prompt=prompt,
        config=GenerationConfig(),
        resume=None,
        priority=4,
        deadline_ms=1,
        model="tiny",
        model_digest=None,
        date="2026-01-01",
    )
    return encode_payload(assign)


def test_as_many_messages_as_the_wire_takes_and_no_more() -> None:
    one = {"role": "user", "content": "a"}
    assert sendable(chat(messages=[one] * MAX_CHAT_MESSAGES).prompts[0])
    error = refusal(chat, messages=[one] * (MAX_CHAT_MESSAGES + 1))
    assert (error.param, error.code) == ("messages", "context_length_exceeded")


def test_as_many_token_ids_as_the_wire_takes_and_no_more() -> None:
    assert sendable(completion(prompt=[1] * MAX_TOKEN_IDS).prompts[0])
    error = refusal(completion, prompt=[1] * (MAX_TOKEN_IDS + 1))
    assert (error.param, error.code) == ("prompt", "context_length_exceeded")


def test_a_prompt_that_no_message_carries_is_too_long_for_any_context() -> None:
    text = "é" * (512 * 1024)
    assert sendable(completion(prompt=text).prompts[0])
    for error in (
        refusal(completion, prompt=text + "a"),
        refusal(completion, prompt=["a", text + "a"]),
        refusal(completion, prompt=text, stop="a"),
    ):
        assert (error.param, error.code) == ("prompt", "context_length_exceeded")
    error = refusal(chat, messages=[{"role": "user", "content": text}])
    assert (error.param, error.code) == ("messages", "context_length_exceeded")
