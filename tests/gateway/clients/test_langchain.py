"""LangChain's ChatOpenAI against a live gateway."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.gateway.network_process import Network

from .conftest import MODEL

pytestmark = pytest.mark.live

MESSAGES = [SystemMessage("Be short."), HumanMessage("Hello")]


@pytest.fixture(scope="module")
def chat(net: Network) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL, base_url=net.base_url, api_key=SecretStr("none"), seed=7, max_tokens=12, max_retries=0
    )


async def test_invoke_stream_and_ainvoke_say_the_same(chat: ChatOpenAI) -> None:
    answer = chat.invoke(MESSAGES)
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 12
    assert answer.response_metadata["finish_reason"] == "length"
    chunks = list(chat.stream(MESSAGES))
    assert "".join(str(chunk.content) for chunk in chunks) == answer.content
    assert len(chunks) > 3
    assert (await chat.ainvoke(MESSAGES)).content == answer.content


def test_a_batch_is_answered_in_its_order(chat: ChatOpenAI) -> None:
    prompts = [f"Question {number}" for number in range(8)]
    single = [chat.invoke(prompt).content for prompt in prompts]
    assert [answer.content for answer in chat.batch(prompts)] == single
    assert len(set(map(str, single))) == 8


def test_a_stop_word_and_logprobs_are_honoured(chat: ChatOpenAI) -> None:
    whole = str(chat.invoke(MESSAGES).content)
    stop = whole[20:24]
    assert chat.invoke(MESSAGES, stop=[stop]).content == whole[: whole.index(stop)]
    told = chat.bind(logprobs=True, top_logprobs=1).invoke(MESSAGES)
    assert len(told.response_metadata["logprobs"]["content"]) == 12
