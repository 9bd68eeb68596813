"""Requests as well-known clients write them, with all that they add."""

from __future__ import annotations

import json

import pytest

from llama_gossip.openai_api import chat_asked
from llama_gossip.protocol.messages import ChatPrompt

OPEN_WEBUI = {
    "stream": True,
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    ],
    "params": {},
    "options": {"temperature": 0.1},
    "features": {"image_generation": False, "web_search": False},
    "variables": {"{{USER_NAME}}": "Ann"},
    "session_id": "s",
    "chat_id": "c",
    "id": "m",
    "background_tasks": {"title_generation": True},
    "stream_options": {"include_usage": True},
    "stop": None,
    "max_tokens": None,
    "metadata": {"task": "title_generation"},
}
LANGCHAIN = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello", "name": None},
    ],
    "frequency_penalty": None,
    "logit_bias": None,
    "logprobs": None,
    "n": 1,
    "seed": None,
    "stop": None,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.7,
    "user": "u",
}
CONTINUED = {  # the SDK's message of an earlier answer, dumped and sent back
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "Be short."},
        {
            "role": "assistant",
            "content": "Hello",
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": None,
        },
    ],
    "parallel_tool_calls": True,
    "service_tier": "auto",
    "store": False,
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
}


@pytest.mark.parametrize("body", [OPEN_WEBUI, LANGCHAIN, CONTINUED])
def test_what_clients_add_does_not_keep_them_out(body: dict[str, object]) -> None:
    asked = chat_asked(json.dumps(body).encode())
    (prompt,) = asked.prompts
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[0] == ("system", "Be short.")
    assert prompt.messages[1][1] == "Hello"
    assert (asked.stream, asked.include_usage, asked.max_tokens) == (True, True, None)
