"""Document: what the gateway's port does, as OpenAPI 3.1. True: tests put it to a live port.

`/api/events`, the dashboard's own stream, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llama_gossip.openai_api.reply_schemas import ref, reply_schemas
from llama_gossip.openai_api.request_schemas import chat_request, completion_request, message
from llama_gossip.protocol.limits import MAX_PRIORITY
from llama_gossip.version import __version__

Json = dict[str, Any]

FAILURES: Final = {
    400: "the body is no valid request; `param` names the field",
    401: "the gateway asks for a key",
    403: "a page of another origin, or a name that is not this host's",
    404: "no such model",
    413: "the body is larger than 4 MiB",
    415: "the body is not application/json",
    429: "too many requests wait, or the key's rate is used up",
    500: "the gateway or the model failed",
    502: "every worker that could serve it has failed",
    503: "no worker is there",
    504: "the answer was not complete in time",
}
WITH_RETRY_AFTER: Final = (429, 503)
GENERATION_FAILURES: Final = tuple(FAILURES)
READING_FAILURES: Final = (401, 403, 500)
OPEN_FAILURES: Final = (403, 500)

DESCRIPTION: Final = (
    "An OpenAI-compatible port over a network of machines that serve each other's models. Every reply has an "
    "x-request-id; every failure, an unknown path (404) and a wrong method (405, with `allow`) included, has "
    "the body of the schema Error. HEAD is answered wherever GET is. Unknown fields of a body are ignored; "
    "what is known and not supported is a 400 that names it."
)

STREAM: Final = (
    "With stream: true. The schema is that of each event; lines with a colon in front are comments. An Error "
    "is the last event of a stream that broke, [DONE] that of a whole one."
)


def openapi() -> Json:
    """A new document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "llama-gossip gateway", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "paths": {
            "/v1/models": _get("models", "The models that are served", _json("ModelList")),
            "/v1/models/{model}": _model(),
            "/v1/chat/completions": _post(
                "chat", "Answer a conversation", "ChatRequest", "ChatCompletion", "ChatCompletionChunk"
            ),
            "/v1/completions": _post(
                "complete", "Continue a text", "CompletionRequest", "Completion", "CompletionChunk"
            ),
            "/healthz": _get("healthz", "The process is alive", _json("State"), is_open=True),
            "/readyz": _get("readyz", "A worker is ready", _json("State"), failures=(503,), is_open=True),
            "/metrics": _get("metrics", "Figures for Prometheus", _text("text/plain")),
            "/openapi.json": _get("openapi", "This document", {"application/json": {"schema": _OBJECT}}),
            "/": _get("dashboard", "The dashboard's page", _text("text/html"), is_open=True),
            "/api/status": _get("status", "What the page shows", {"application/json": {"schema": _OBJECT}}),
        },
        "components": {
            "schemas": {
                "ChatRequest": chat_request(),
                "Message": message(),
                "CompletionRequest": completion_request(),
                **reply_schemas(),
            },
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "asked for where the gateway was started with keys",
                }
            },
        },
    }


_OBJECT: Final[Json] = {"type": "object"}
_PRIORITY: Final[Json] = {
    "name": "x-llama-gossip-priority",
    "in": "header",
    "schema": {"type": "integer", "minimum": 0, "maximum": MAX_PRIORITY},
    "description": "9 is the most urgent; a key may cap it",
}
_HEADERS: Final[Json] = {
    "x-request-id": {"required": True, "schema": {"type": "string"}, "description": "of this reply alone"},
    "retry-after": {"schema": {"type": "integer"}, "description": "seconds"},
    "x-should-retry": {"schema": {"const": "false"}, "description": "there where a retry cannot help"},
    "x-llama-gossip-worker": {"schema": {"type": "string"}, "description": "node id of the first worker"},
}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": ref(schema)}}


def _text(media_type: str) -> Json:
    return {media_type: {"schema": {"type": "string"}}}


def _get(
    operation: str, summary: str, content: Json, *, failures: Sequence[int] = (), is_open: bool = False
) -> Json:
    usual = OPEN_FAILURES if is_open else READING_FAILURES
    get: Json = {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": _reply("done", content), **_failures(sorted({*usual, *failures}))},
    }
    return {"get": {**get, "security": []} if is_open else get}


def _model() -> Json:
    path = _get("model", "One model", _json("Model"), failures=(404,))
    path["get"]["parameters"] = [
        {
            "name": "model",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
            "description": "its name, which may hold slashes, as they are or as %2F",
        }
    ]
    return path


def _post(operation: str, summary: str, asked: str, whole: str, chunk: str) -> Json:
    stream = {"schema": _event(chunk), "description": STREAM}
    content = {**_json(whole), "text/event-stream": stream}
    answer = _reply("the answer, whole or as a stream", content, "x-llama-gossip-worker")
    return {
        "post": {
            "operationId": operation,
            "summary": summary,
            "parameters": [_PRIORITY],
            "requestBody": {"required": True, "content": _json(asked)},
            "responses": {"200": answer, **_failures(GENERATION_FAILURES)},
        }
    }


def _event(chunk: str) -> Json:
    """Of a stream, each: its data is a chunk, the error that ends it, or the mark of a whole one."""
    one = {"contentMediaType": "application/json", "contentSchema": {"anyOf": [ref(chunk), ref("Error")]}}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"data": {"type": "string", "anyOf": [{"const": "[DONE]"}, one]}},
    }


def _failures(statuses: Sequence[int]) -> Json:
    return {str(status): _failure(status) for status in statuses}


def _failure(status: int) -> Json:
    extra = ("retry-after", "x-should-retry") if status in WITH_RETRY_AFTER else ("x-should-retry",)
    return _reply(FAILURES[status], _json("Error"), *extra)


def _reply(description: str, content: Json, *extra: str) -> Json:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *extra)}
    return {"description": description, "headers": headers, "content": content}
