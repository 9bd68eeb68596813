"""Answers of models over HTTP, whole and as they come: the contract's rows, with two live workers."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from llama_gossip.errors import NoWorkers
from llama_gossip.generation import Generation
from llama_gossip.protocol.admission import MAX_REQUEST_TOKENS
from llama_gossip.protocol.events import Submit
from llama_gossip.protocol.messages import GenerationConfig

from .staging import CHAT, COMPLETION, Stage, error_of, events_of, text_of

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]


async def test_a_chat_is_answered_whole(stage: Stage) -> None:
    reply = await stage.chat()
    assert reply.status_code == 200
    body = reply.json()
    (choice,) = body["choices"]
    assert (body["object"], body["model"], choice["index"]) == ("chat.completion", "scripted", 0)
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["refusal"] is choice["logprobs"] is None
    assert choice["finish_reason"] == "length"
    usage = body["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert body["id"].startswith("chatcmpl-")
    assert isinstance(body["created"], int)
    workers = {worker.node_id.hex() for worker in stage.workers}
    assert reply.headers["x-llama-gossip-worker"] in workers
    assert body["llama_gossip"]["attempts"] == 1


async def test_the_same_seed_gives_the_same_text_whole_and_streamed(stage: Stage) -> None:
    whole = (await stage.chat()).json()["choices"][0]["message"]["content"]
    streamed = events_of((await stage.chat(stream=True)).text)
    assert text_of(streamed) == whole
    other = (await stage.chat(seed=2)).json()["choices"][0]["message"]["content"]
    assert other != whole


async def test_a_stream_has_the_role_first_one_finish_reason_and_done(stage: Stage) -> None:
    reply = await stage.chat(stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.text.startswith(": waiting\n\n")
    *chunks, done = events_of(reply.text)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {(c["id"], c["created"], c["model"], c["object"]) for c in chunks} == {
        (chunks[0]["id"], chunks[0]["created"], "scripted", "chat.completion.chunk")
    }
    reasons = [c["choices"][0]["finish_reason"] for c in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert all("usage" not in c for c in chunks)
    assert chunks[-1]["llama_gossip"]["worker"] == reply.headers["x-llama-gossip-worker"]


async def test_usage_comes_only_when_it_is_asked_for(stage: Stage) -> None:
    reply = await stage.chat(stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = events_of(reply.text)
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_a_completion_is_raw_and_streams_in_its_own_object(stage: Stage) -> None:
    whole = (await stage.completion()).json()
    assert (whole["object"], whole["choices"][0]["logprobs"]) == ("text_completion", None)
    assert whole["usage"]["prompt_tokens"] == len("Hello"), "no chat template went around it"
    *chunks, done = events_of((await stage.completion(stream=True)).text)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert text_of(chunks) == whole["choices"][0]["text"]


async def test_a_completion_without_max_tokens_has_sixteen(stage: Stage) -> None:
    body = {name: value for name, value in COMPLETION.items() if name != "max_tokens"}
    reply = await stage.post("/v1/completions", body)
    assert reply.json()["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("prompt", [["Hello"], [72, 101, 108, 108, 111], [[72, 101, 108, 108, 111]]])
async def test_a_prompt_may_be_a_list_or_tokens(stage: Stage, prompt: object) -> None:
    whole = await stage.completion()
    same = await stage.completion(prompt=prompt)
    assert same.json()["choices"][0]["text"] == whole.json()["choices"][0]["text"]


async def test_several_prompts_are_as_many_choices_whole_and_streamed(stage: Stage) -> None:
    prompts = ["Hello", "Goodbye", "Hello again"]
    alone = [(await stage.completion(prompt=one)).json()["choices"][0]["text"] for one in prompts]
    together = (await stage.completion(prompt=prompts)).json()
    assert [choice["text"] for choice in together["choices"]] == alone
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
    assert together["usage"]["completion_tokens"] == 15
    *chunks, done = events_of((await stage.completion(prompt=prompts, stream=True)).text)
    assert done == "[DONE]"
    assert [text_of(chunks, choice) for choice in range(3)] == alone
    ends = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert sorted(ends) == [0, 1, 2]


async def test_logprobs_are_one_a_token(stage: Stage) -> None:
    chat = (await stage.chat(logprobs=True, top_logprobs=2)).json()
    content = chat["choices"][0]["logprobs"]["content"]
    assert len(content) == 5
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    streamed = events_of((await stage.chat(logprobs=True, top_logprobs=2, stream=True)).text)[:-1]
    pieces = [c["choices"][0]["logprobs"]["content"] for c in streamed if c["choices"][0].get("logprobs")]
    assert [entry for piece in pieces for entry in piece] == content
    plain = (await stage.completion(logprobs=1)).json()["choices"][0]["logprobs"]
    assert len(plain["tokens"]) == len(plain["token_logprobs"]) == len(plain["text_offset"]) == 5


async def test_a_stop_string_is_left_out_whole_and_streamed(stage: Stage) -> None:
    text = (await stage.chat(max_tokens=30)).json()["choices"][0]["message"]["content"]
    stop = text[20:26]  # across the borders of tokens
    before = text[: text.index(stop)]
    whole = (await stage.chat(max_tokens=30, stop=["", stop])).json()["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == (before, "stop")
    streamed = events_of((await stage.chat(max_tokens=30, stop=stop, stream=True)).text)
    assert text_of(streamed) == before


async def test_what_is_asked_for_is_what_the_network_is_asked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[GenerationConfig] = []

    def submit(asked: Submit) -> Generation:
        configs.append(asked.config)
        raise NoWorkers("enough is known")

    monkeypatch.setattr(stage.gateway._orders, "_submit", submit)
    sampling = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "seed": 9}
    penalties = {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    others = {"logit_bias": {"65": 2}, "stop": ["end"], "ignore_eos": True, "max_tokens": 4}
    await stage.chat(**sampling, **penalties, **others, logprobs=True, top_logprobs=3)
    await stage.post("/v1/chat/completions", {"model": "any", "messages": CHAT["messages"], "seed": 9})
    await stage.chat(max_tokens=10**12)
    assert configs[0] == GenerationConfig(
        max_tokens=4,
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        seed=9,
        stop=("end",),
        ignore_eos=True,
        logprobs=3,
        min_p=0.125,
        repetition=1.5,
        presence=0.5,
        frequency=-0.5,
        logit_bias=((65, 2.0),),
        fit=True,
    )
    usual = configs[1]
    assert (usual.temperature, usual.top_p, usual.top_k, usual.max_tokens) == (1.0, 1.0, None, 1_024)
    assert configs[2].max_tokens == MAX_REQUEST_TOKENS


async def test_many_at_once_are_not_mixed(stage: Stage) -> None:
    alone = [(await stage.chat(seed=seed)).json()["choices"][0]["message"] for seed in range(20)]
    both = [stage.chat(seed=seed, stream=seed % 2 == 0) for seed in range(20)]
    for seed, reply in enumerate(await asyncio.gather(*both)):
        got = (
            text_of(events_of(reply.text))
            if seed % 2 == 0
            else reply.json()["choices"][0]["message"]["content"]
        )
        assert got == alone[seed]["content"]


async def test_nothing_is_in_flight_once_an_answer_is_there(stage: Stage) -> None:
    for stream in (False, True):
        await stage.chat(stream=stream)
        assert await stage.metric("llama_gossip_requests_in_flight") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_order_has_ended_before_the_last_byte_is_sent(stage: Stage, stream: bool) -> None:
    body, seen = json.dumps(CHAT | {"stream": stream}).encode(), []
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return unread.pop() if unread else await asyncio.Future()

    async def send(message: Any) -> None:
        exposed, _ = stage.gateway._metrics.exposition()
        (gauge,) = re.findall(rb"^llama_gossip_requests_in_flight (.*)$", exposed, re.MULTILINE)
        seen.append((message.get("more_body", False), float(gauge)))

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    await stage.gateway.app({**scope, "root_path": "", "query_string": b""}, receive, send)
    assert seen[-1] == (False, 0.0)
    assert ((True, 1.0) in seen) == stream


async def test_an_unknown_model_is_a_404_that_a_retry_does_not_help(stage: Stage) -> None:
    for stream in (False, True):
        reply = await stage.chat(model="unheard/of", stream=stream)
        assert reply.status_code == 404
        assert error_of(reply)["code"] == "model_not_found"
        assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "size", [300_000, 3_900_000]
)  # over the engine's context, over what a message carries
async def test_a_prompt_over_the_context_is_the_clients_error(stage: Stage, size: int, stream: bool) -> None:
    reply = await stage.completion(prompt="x" * size, stream=stream)
    assert reply.status_code == 400
    assert error_of(reply)["code"] == "context_length_exceeded"
    assert error_of(reply)["param"] == "prompt"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ],
)
async def test_what_is_refused_names_its_field(stage: Stage, changes: dict[str, Any], param: str) -> None:
    reply = await stage.chat(**changes)
    assert reply.status_code == 400
    assert error_of(reply)["param"] == param
