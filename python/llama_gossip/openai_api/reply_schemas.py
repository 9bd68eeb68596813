"""Schemas of what is answered: whole answers, the chunks of a stream, models, errors, `llama_gossip`."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number"}
FINISH: Final[Schema] = {"enum": ["stop", "length"]}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def record(*optional: str, **properties: Schema) -> Schema:
    """An object that has all of them but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def listed(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def reply_schemas() -> dict[str, Schema]:
    return {
        **_answers(),
        **_chunks(),
        **_logprobs(),
        "Usage": record(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
        "LlamaGossip": _llama_gossip(),
        "Model": record(id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT),
        "ModelList": record(object={"const": "list"}, data=listed(ref("Model"))),
        "Error": record(error=record(message=TEXT, type=TEXT, param=_TEXT_OR_NULL, code=_TEXT_OR_NULL)),
        "State": record(status=TEXT),
    }


_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}


def _head(name: str) -> dict[str, Schema]:
    return {
        "id": TEXT,
        "object": {"const": name},
        "created": COUNT,
        "model": TEXT,
        "system_fingerprint": TEXT,
    }


def _answers() -> dict[str, Schema]:
    message = record(role={"const": "assistant"}, content=TEXT, refusal={"type": "null"})
    chat = record(index=COUNT, message=message, logprobs=or_null(ref("ChatLogprobs")), finish_reason=FINISH)
    completion = record(
        index=COUNT, text=TEXT, logprobs=or_null(ref("CompletionLogprobs")), finish_reason=FINISH
    )
    rest = {"usage": ref("Usage"), "llama_gossip": ref("LlamaGossip")}
    one = {"minItems": 1, "maxItems": 1}
    return {
        "ChatCompletion": record(**_head("chat.completion"), choices=listed(chat, **one), **rest),
        "Completion": record(**_head("text_completion"), choices=listed(completion, minItems=1), **rest),
    }


def _chunks() -> dict[str, Schema]:
    """Every chunk has one choice; the one with the usage, the last where it was asked for, has none."""
    delta = record(
        "role", "content", "refusal", role={"const": "assistant"}, content=TEXT, refusal={"type": "null"}
    )
    finish = {"enum": ["stop", "length", None]}
    chat = record(index=COUNT, delta=delta, logprobs=or_null(ref("ChatLogprobs")), finish_reason=finish)
    completion = record(
        index=COUNT, text=TEXT, logprobs=or_null(ref("CompletionLogprobs")), finish_reason=finish
    )
    rest = {"usage": or_null(ref("Usage")), "llama_gossip": ref("LlamaGossip")}
    extra = ("usage", "llama_gossip")
    return {
        "ChatCompletionChunk": record(
            *extra, **_head("chat.completion.chunk"), choices=listed(chat, maxItems=1), **rest
        ),
        "CompletionChunk": record(
            *extra, **_head("text_completion"), choices=listed(completion, maxItems=1), **rest
        ),
    }


def _logprobs() -> dict[str, Schema]:
    octets = listed({"type": "integer", "minimum": 0, "maximum": 255})
    other = record(token=TEXT, logprob=NUMBER, bytes=octets)
    item = record(token=TEXT, logprob=NUMBER, bytes=octets, top_logprobs=listed(other))
    return {
        "ChatLogprobs": record(content=listed(item), refusal={"type": "null"}),
        "CompletionLogprobs": record(
            tokens=listed(TEXT),
            token_logprobs=listed(NUMBER),
            top_logprobs=listed({"type": "object", "additionalProperties": NUMBER}),
            text_offset=listed(COUNT),
        ),
    }


def _llama_gossip() -> Schema:
    facts = {
        "worker": {**TEXT, "description": "node id of the worker that made the last token"},
        "attempts": {"type": "integer", "minimum": 1, "description": "1 without failover"},
        "request_id": TEXT,
        "delivery": {**TEXT, "description": "direct or gossip"},
        "resume": {**_TEXT_OR_NULL, "description": "class of the weakest seam; null: there was none"},
        "verified": {"type": "boolean", "description": "the signed transcript of the answer holds"},
    }
    return record("choices", **facts, choices=listed(record(**facts)))
