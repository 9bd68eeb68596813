"""Schemas of the two request bodies: what `asked` takes, as JSON Schema 2020-12.

The law: exact. What a schema takes is no 400 for its form, and what it does not take is one; bounds come from
the code that keeps them. Unknown fields are allowed because they are ignored. Not to be said in a schema: no
key twice, valid UTF-8, at most 1 MiB of prompt, and whatever only the model's tokeniser knows.
"""

from __future__ import annotations

from typing import Any, Final

from llama_gossip.openai_api import parameters as p
from llama_gossip.openai_api.messages import NOTHING, ROLES, UNTOLD
from llama_gossip.openai_api.prompts import MAX_PROMPTS
from llama_gossip.protocol.limits import MAX_CHAT_MESSAGES, MAX_TOKEN_IDS, MAX_U32

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": ["boolean", "null"], "default": False}


def whole(least: int, most: int | None = None, **more: Any) -> Schema:
    bounds = {"minimum": least} if most is None else {"minimum": least, "maximum": most}
    return {"type": ["integer", "null"], **bounds, **more}


def number(least: float, most: float, default: float) -> Schema:
    return {"type": ["number", "null"], "minimum": least, "maximum": most, "default": default}


def one_of(*values: object, **more: Any) -> Schema:
    return {"enum": list(values), **more}


def chat_request() -> Schema:
    return {
        "type": "object",
        "required": ["model", "messages"],
        "properties": {
            "model": {"type": "string", "minLength": 1},
            "messages": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_CHAT_MESSAGES,
                "items": {"$ref": "#/components/schemas/Message"},
            },
            **_common(),
            "max_tokens": whole(1, description="older name; max_completion_tokens wins"),
            "max_completion_tokens": whole(
                1, description="absent: what is left of the context, at most 1024; above it: clamped"
            ),
            "logprobs": FLAG,
            "top_logprobs": whole(0, p.MAX_TOP_LOGPROBS, description="needs logprobs: true"),
            **_refused_of_chats(),
        },
        "allOf": [_STREAM_OPTIONS_NEED_STREAM, _ALTERNATIVES_NEED_LOGPROBS],
    }


def message() -> Schema:
    part = {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": TEXT},
    }
    return {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": one_of(*ROLES),
            "content": {"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": part}]},
            "name": {"type": ["string", "null"], "description": "accepted, not told to the model"},
            **{name: one_of(*NOTHING, description="not supported") for name in UNTOLD},
        },
    }


def completion_request() -> Schema:
    ids = {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_TOKEN_IDS,
        "items": {"type": "integer", "minimum": 0, "maximum": MAX_U32},
    }
    several = {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS}
    return {
        "type": "object",
        "required": ["model", "prompt"],
        "properties": {
            "model": {"type": "string", "minLength": 1},
            "prompt": {
                "anyOf": [TEXT, {**several, "items": TEXT}, ids, {**several, "items": ids}],
                "description": "as it is, without the model's chat template; several: a choice each",
            },
            **_common(),
            "max_tokens": whole(1, default=16),
            "max_completion_tokens": whole(1, description="wins over max_tokens"),
            "logprobs": whole(0, p.MAX_COMPLETION_LOGPROBS),
            "echo": one_of(False, None),
            "suffix": one_of("", None),
            "best_of": one_of(1, None),
        },
        "allOf": [_STREAM_OPTIONS_NEED_STREAM],
    }


def _common() -> Schema:
    return {
        "n": one_of(1, None),
        "temperature": number(0, 2, 1),
        "top_p": number(0, 1, 1),
        "top_k": whole(-1, p.MAX_TOP_K, description="-1, 0 or absent: all"),
        "min_p": number(0, 1, 0),
        "presence_penalty": number(-2, 2, 0),
        "frequency_penalty": number(-2, 2, 0),
        "repetition_penalty": number(0.01, 10, 1),
        "seed": whole(0, 2**64 - 1, description="with it the same workers give the same answer"),
        "stop": {
            "anyOf": [
                {"type": ["string", "null"]},
                {"type": "array", "minItems": 1, "maxItems": p.MAX_STOPS, "items": TEXT},
            ]
        },
        "ignore_eos": FLAG,
        "logit_bias": {
            "type": ["object", "null"],
            "maxProperties": p.MAX_BIASES,
            "patternProperties": {
                f"^({p.TOKEN_ID_KEY})$": {"type": "number", "minimum": -p.MAX_BIAS, "maximum": p.MAX_BIAS}
            },
            "additionalProperties": False,
        },
        "stream": FLAG,
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": FLAG},
            "description": "needs stream: true",
        },
    }


def _refused_of_chats() -> Schema:
    form = {"type": ["object", "null"], "required": ["type"], "properties": {"type": {"const": "text"}}}
    return {
        "tools": {"type": ["array", "null"], "maxItems": 0, "description": "not supported"},
        "functions": {"type": ["array", "null"], "maxItems": 0, "description": "not supported"},
        "tool_choice": one_of("none", None),
        "function_call": one_of("none", None),
        "response_format": form,
        "modalities": {"type": ["array", "null"], "items": {"const": "text"}},
        "audio": {"type": "null", "description": "not supported"},
    }


_STREAM_OPTIONS_NEED_STREAM: Final[Schema] = {
    "anyOf": [
        {"properties": {"stream_options": {"type": "null"}}},
        {"properties": {"stream": {"const": True}}, "required": ["stream"]},
    ]
}
_ALTERNATIVES_NEED_LOGPROBS: Final[Schema] = {
    "anyOf": [
        {"properties": {"top_logprobs": {"type": "null"}}},
        {"properties": {"logprobs": {"const": True}}, "required": ["logprobs"]},
    ]
}
