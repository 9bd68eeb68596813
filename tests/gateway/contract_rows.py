"""Rows of the HTTP contract as data: what is asked, and what must hold of each answer whoever gives it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

MODEL = "scripted"
HELLO = {"role": "user", "content": "Hello"}
PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
TOKENS = 60


@dataclass(frozen=True)
class Row:
    name: str
    kind: str = "chat"
    asks: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return PATHS[self.kind]

    @property
    def body(self) -> dict[str, Any]:
        # A first message of its own: rows that share no beginning are spread over the workers.
        own = (
            {"messages": [{"role": "developer", "content": self.name}, HELLO]} if self.kind == "chat" else {}
        )
        return {"model": MODEL, "seed": 7, "max_tokens": TOKENS, **own, **self.asks}

    @property
    def stream(self) -> bool:
        return bool(self.asks.get("stream"))

    @property
    def choices(self) -> int:
        prompt = self.asks.get("prompt")
        return len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str) else 1


STREAM = {"stream": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
ROWS = (
    Row("chat, whole"),
    Row("chat, stream", asks=STREAM),
    Row("chat, stream with usage", asks=USAGE),
    Row("chat, greedy stream", asks={**STREAM, "temperature": 0}),
    Row("chat, logprobs, whole", asks={"logprobs": True, "top_logprobs": 2}),
    Row("chat, logprobs, stream", asks={**STREAM, "logprobs": True, "top_logprobs": 2}),
    Row("chat, stop in the stream", asks={**STREAM, "stop": ["never there", "\n\n"]}),
    Row("completion, whole", "completion", {"prompt": "Once"}),
    Row("completion, stream with usage", "completion", {"prompt": "Twice", **USAGE}),
    Row("completion, three prompts, stream", "completion", {"prompt": ["A", "B", "C"], **STREAM}),
    Row("completion, three prompts, whole", "completion", {"prompt": ["D", "E", "F"]}),
    Row("completion, ids, logprobs, stream", "completion", {"prompt": [1, 2, 3], "logprobs": 1, **STREAM}),
)


@dataclass(frozen=True)
class Told:
    """What one row's answer said, without what differs from one time to the next."""

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    usage: dict[str, Any] | None
    logprobs: tuple[Any, ...]
    attempts: tuple[int, ...] = field(compare=False)  # of each choice
    workers: tuple[str, ...] = field(compare=False)


def told_by_whole(row: Row, answer: dict[str, Any]) -> Told:
    """What a whole answer says; its shape is checked on the way."""
    is_chat = row.kind == "chat"
    assert answer["object"] == ("chat.completion" if is_chat else "text_completion")
    choices, usage, facts = answer["choices"], answer["usage"], answer["llama_gossip"]
    assert [choice["index"] for choice in choices] == list(range(row.choices))
    check_head(answer)
    check_usage(usage)
    if is_chat:
        assert all(choice["message"].keys() >= {"role", "content", "refusal"} for choice in choices)
    ends = facts.get("choices", [facts])
    return Told(
        texts=tuple(choice["message"]["content"] if is_chat else choice["text"] for choice in choices),
        finish_reasons=tuple(choice["finish_reason"] for choice in choices),
        usage=usage,
        logprobs=tuple(choice["logprobs"] for choice in choices),
        attempts=tuple(end["attempts"] for end in ends),
        workers=tuple(end["worker"] for end in ends),
    )


def told_by_stream(row: Row, text: str) -> Told:
    """What a stream says; the shape of every event is checked on the way."""
    events = events_of(text)
    assert len({(event["id"], event["created"], event["model"]) for event in events}) == 1
    usage = events.pop()["usage"] if "stream_options" in row.asks else None
    pieces: list[list[Any]] = [[] for _ in range(row.choices)]
    facts: dict[int, Any] = {}
    for event in events:
        check_head(event)
        assert event.get("usage") is None
        (choice,) = event["choices"]
        assert "finish_reason" in choice
        pieces[choice["index"]].append(choice)
        if "llama_gossip" in event:
            facts[choice["index"]] = event["llama_gossip"]
    for of_choice in pieces:
        check_pieces(row, of_choice)
    if usage is not None:
        check_usage(usage)
    return Told(
        texts=tuple("".join(map(text_of, of_choice)) for of_choice in pieces),
        finish_reasons=tuple(of_choice[-1]["finish_reason"] for of_choice in pieces),
        usage=usage,
        logprobs=tuple([one["logprobs"] for one in of_choice if one["logprobs"]] for of_choice in pieces),
        attempts=tuple(facts[index]["attempts"] for index in range(row.choices)),
        workers=tuple(facts[index]["worker"] for index in range(row.choices)),
    )


def check_head(event: dict[str, Any]) -> None:
    assert event["model"] == MODEL
    assert isinstance(event["created"], int)
    assert event["system_fingerprint"]


def check_usage(usage: dict[str, Any]) -> None:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def check_pieces(row: Row, choices: list[Any]) -> None:
    """Of one choice: the role first, the reason of the end alone and last."""
    if row.kind == "chat":
        assert choices[0]["delta"]["role"] == "assistant"
        assert choices[-1]["delta"] == {}
    assert text_of(choices[-1]) == ""
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)


def text_of(choice: dict[str, Any]) -> str:
    text: str = choice["text"] if "text" in choice else choice["delta"].get("content", "")
    return text


def events_of(text: str) -> list[Any]:
    """The events of a whole stream but for the last, which must be [DONE]; comments are left out."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks), text
    *datas, done = [block.removeprefix("data: ") for block in blocks]
    assert done == "[DONE]"
    return [json.loads(data) for data in datas]
