"""OpenAI's own Python client against a live gateway, unmodified: only the base URL is another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.gateway.network_process import Network

from .conftest import KEY, MODEL

pytestmark = pytest.mark.live

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
FIXED: dict[str, Any] = {"model": MODEL, "messages": HELLO, "seed": 7, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(net: Network) -> Iterator[OpenAI]:
    with OpenAI(base_url=net.base_url, api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def text(client: OpenAI) -> str:
    """What every way of asking must say."""
    said = client.chat.completions.create(**FIXED).choices[0].message.content
    assert said
    return said


def test_models_are_listed_and_found_by_name(client: OpenAI) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == [MODEL]
    assert client.models.retrieve(MODEL) == listed[0]


def test_a_whole_answer_has_all_that_the_client_reads(client: OpenAI) -> None:
    answer = client.chat.completions.create(**FIXED)
    choice, usage = answer.choices[0], answer.usage
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    assert choice.message.refusal is None
    assert usage is not None
    assert usage.completion_tokens == 12
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_says_the_same_as_the_whole_answer(client: OpenAI, text: str) -> None:
    with client.chat.completions.create(**FIXED, stream=True) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
        (chunks[0].id, chunks[0].created, MODEL)
    }
    assert all(chunk.usage is None for chunk in chunks)
    assert len(chunks) > 3  # as they come, not at the end


def test_the_usage_of_a_stream_comes_when_it_is_asked_for(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(**FIXED, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_helper_for_streams_puts_the_answer_together(client: OpenAI, text: str) -> None:
    stop = text[-4:]  # the helper takes an answer that was cut by its length for a failure
    with client.chat.completions.stream(**FIXED, stop=stop) as stream:
        kinds = {event.type for event in stream}
        told = stream.get_final_completion().choices[0].message.content
    assert told == text[: text.index(stop)]
    assert {"chunk", "content.delta", "content.done"} <= kinds


async def test_the_asynchronous_client_says_the_same(net: Network, text: str) -> None:
    async with AsyncOpenAI(base_url=net.base_url, api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(**FIXED)
        assert answer.choices[0].message.content == text
        stream = await client.chat.completions.create(**FIXED, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text


def test_raw_responses_carry_the_request_and_the_worker(client: OpenAI, net: Network) -> None:
    raws = [client.chat.completions.with_raw_response.create(**FIXED) for _ in range(2)]
    assert all(raw.headers["x-llama-gossip-worker"] in net.workers for raw in raws)
    assert raws[0].headers["x-request-id"] != raws[1].headers["x-request-id"]
    assert "set-cookie" not in raws[0].headers
    assert raws[0].parse()._request_id == raws[0].headers["x-request-id"]
    with client.chat.completions.with_streaming_response.create(**FIXED, stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.headers["x-llama-gossip-worker"] in net.workers
        assert list(raw.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_stop_ends_before_the_text_wherever_the_tokens_are_cut(client: OpenAI, text: str) -> None:
    stop = text[len(text) // 2 :][:5]
    answer = client.chat.completions.create(**FIXED, stop=[stop]).choices[0]
    assert (answer.message.content, answer.finish_reason) == (text[: text.index(stop)], "stop")
    chunks = list(client.chat.completions.create(**FIXED, stop=stop, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text[: text.index(stop)]


def test_logprobs_come_one_for_each_token(client: OpenAI, text: str) -> None:
    answer = client.chat.completions.create(**FIXED, logprobs=True, top_logprobs=2).choices[0]
    assert answer.logprobs is not None
    assert answer.logprobs.content is not None
    assert len(answer.logprobs.content) == 12
    assert "".join(one.token for one in answer.logprobs.content) == text
    assert all(one.logprob <= 0 and len(one.top_logprobs) == 2 for one in answer.logprobs.content)


def test_completions_are_raw_and_take_strings_and_lists(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "seed": 7}
    one = client.completions.create(**options, prompt="Hello")
    assert (one.object, len(one.choices)) == ("text_completion", 1)
    assert one.usage is not None
    assert one.usage.completion_tokens == 16  # OpenAI's default
    two = client.completions.create(**options, prompt=["Hello", "World"])
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[0].text == one.choices[0].text != two.choices[1].text
    ids = client.completions.create(**options, prompt=list(b"Hello"))
    assert ids.choices[0].text
    chunks = list(client.completions.create(**options, prompt="Hello", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == one.choices[0].text


# --- errors --------------------------------------------------------------------------------------


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**(FIXED | {"model": "gpt-9"}))
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"extra_body": {"seed": "7"}, "seed": None}, "seed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_request_names_its_parameter(client: OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**(FIXED | wrong))
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_a_key_is_asked_for_and_taken(keyed_url: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=keyed_url, api_key="wrong", max_retries=0).models.list()
    with OpenAI(base_url=keyed_url, api_key=KEY, max_retries=0) as keyed:
        assert keyed.chat.completions.create(**FIXED).choices[0].message.content


def counting(net: Network, calls: list[str]) -> OpenAI:
    """A client that may retry twice, and tells of every request that it sends."""

    def count(request: Any) -> None:
        calls.append(request.url.path)

    return OpenAI(
        base_url=net.base_url,
        api_key="none",
        max_retries=2,
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [count]}),
    )


def test_what_a_retry_cannot_help_is_not_retried(net: Network) -> None:
    calls: list[str] = []
    with counting(net, calls) as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**(FIXED | {"model": "gpt-9"}))
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(calls) == 1


def test_the_network_does_not_confuse_conversations(client: OpenAI) -> None:
    """Several turns, as programs send them: the whole history each time."""
    messages = [*HELLO]
    for turn in range(3):
        said = client.chat.completions.create(**(FIXED | {"messages": messages})).choices[0].message
        again = client.chat.completions.create(**(FIXED | {"messages": messages})).choices[0].message
        assert said.content == again.content
        messages += [said.model_dump(exclude_none=True), {"role": "user", "content": f"And {turn}?"}]
