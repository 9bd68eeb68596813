"""Bodies of requests: JSON by their type, bounded, read before anything else is done."""

from __future__ import annotations

from starlette.requests import Request

from llama_gossip.openai_api import ApiError

MAX_BODY_BYTES = 4 << 20


class BodyRefused(ApiError):
    """Told while the client may still be sending."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(status, message, code=code)


def _too_large() -> BodyRefused:
    return BodyRefused(413, f"the body is larger than {MAX_BODY_BYTES} bytes", "body_too_large")


class ClientGone(Exception):
    """Nobody waits for the reply any more."""


async def read_json(request: Request) -> bytes:
    """The body of a request that says it is JSON. Raises BodyRefused (413, 415), ClientGone."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BodyRefused(
            415, "the body must be JSON: send content-type: application/json", "unsupported_media_type"
        )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)
