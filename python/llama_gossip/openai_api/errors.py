"""Errors of the HTTP interface: one shape for all of them, and what of a node's error a client is told.

The law: a message names what the client can change and nothing of the inside (no node ids, no traces); a
retry is advised only where it can help.
"""

from __future__ import annotations

import re

from llama_gossip.errors import LlamaGossipError, NoWorkers
from llama_gossip.plain_text import one_line

INVALID_REQUEST = "invalid_request_error"
RATE_LIMIT = "rate_limit_error"
SERVER_ERROR = "server_error"

NO_WORKERS_AGAIN_S = 5  # a worker that has loaded says so at once, and loading takes seconds
CLOSED_AGAIN_S = 10  # by then a node that goes has gone, and perhaps another listens here
MAX_MESSAGE_CHARS = 512  # a client's own words come back in some messages

_TRAIL = re.compile(r" \[[0-9a-f]{10}: .*\]\Z", re.DOTALL)  # generation.error_of adds it: worker by worker


class ApiError(Exception):
    """A failure as a client sees it. `retryable`: the same request may succeed a moment later."""

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        retryable: bool | None = None,
    ) -> None:
        """type and retryable None: what goes with the status."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = _type_of(status) if type is None else type
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.retryable = (status >= 500 or status == 429) if retryable is None else retryable

    def body(self) -> dict[str, dict[str, str | None]]:
        """JSON of the reply: always the four keys."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Of the reply: when to come back, or that it is of no use."""
        if not self.retryable:
            return {"x-should-retry": "false"}
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


def _type_of(status: int) -> str:
    if status >= 500:
        return SERVER_ERROR
    return RATE_LIMIT if status == 429 else INVALID_REQUEST


def bad_request(param: str | None, message: str, code: str | None = None) -> ApiError:
    """400, naming the field. None: the body as a whole."""
    return ApiError(400, message, param=param, code=code)


def too_long(param: str | None, message: str) -> ApiError:
    """400 for a prompt that no context holds."""
    return bad_request(param, message, "context_length_exceeded")


def internal_error() -> ApiError:
    """For a bug of ours, which is logged where it is found."""
    return ApiError(500, "the gateway failed: this is a bug, its log says more", code="internal")


def unknown_model(message: str) -> ApiError:
    return ApiError(404, message, param="model", code="model_not_found")


def api_error_of(error: LlamaGossipError, *, param: str | None = None) -> ApiError:
    """What a client is told of a node's error. param: the field that holds the prompt, where it is known."""
    match error.code:
        case "too_long":
            return too_long(param, _told(error))
        case "model":
            return unknown_model(_told(error))
        case "bad_request" | "usage":
            return bad_request(None, _told(error), "invalid_value")
        case "timeout":
            return ApiError(504, "the answer was not complete in time", code="timeout")
        case "cancelled" | "closed":
            message = "the request was ended before its answer was complete"
            return ApiError(503, message, code="cancelled", retry_after_s=CLOSED_AGAIN_S)
    if isinstance(error, NoWorkers):
        return ApiError(503, _told(error), code=error.code, retry_after_s=NO_WORKERS_AGAIN_S)
    match error.http_status:
        case 502:
            message = "every worker that could serve the request has failed"
            return ApiError(502, message, code=error.code, retryable=error.retryable)
        case 503:
            message = "the network is not there at the moment"
            return ApiError(503, message, code=error.code, retry_after_s=NO_WORKERS_AGAIN_S)
    return ApiError(500, "the gateway failed", code="internal", retryable=False)


def _told(error: LlamaGossipError) -> str:
    """The error's sentence without the trail of node ids. Some are in a worker's own words."""
    sentence = one_line(_TRAIL.sub("", error.message))
    return sentence if len(sentence) <= MAX_MESSAGE_CHARS else sentence[: MAX_MESSAGE_CHARS - 1] + "…"
