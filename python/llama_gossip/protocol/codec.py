"""Messages to payload bytes and back (PROTOCOL section 3). Laws: decode(encode(m)) == m, and decoding
raises nothing but ProtocolError, whatever the bytes.

Encoding is minimal msgpack with float64; decoding takes every width. A message that a receiver would
refuse is refused here, before it is signed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import assert_never

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol import fields as f
from llama_gossip.protocol import groups as g
from llama_gossip.protocol.groups import Fields
from llama_gossip.protocol.limits import (
    MAX_ADDRESSES,
    MAX_ARRAY,
    MAX_CONVERSATION_MARKS,
    MAX_ERROR_BYTES,
    MAX_FEATURE_BYTES,
    MAX_FEATURES,
    MAX_HEARD,
    MAX_NAME_BYTES,
    MAX_TOKEN_ARRAY,
    MAX_TOKEN_IDS,
)
from llama_gossip.protocol.messages import (
    Ack,
    Announce,
    Assign,
    Cancel,
    Claim,
    Complete,
    Error,
    FinishReason,
    Kind,
    Leave,
    Message,
    NodeState,
    NumericsClass,
    Packet,
    Phase,
    Progress,
    Reject,
    RejectReason,
    Request,
    Token,
)
from llama_gossip.protocol.structure import malformed, pack, unpack_payload

_PROGRESS_LISTED, _PROGRESS_WITH_FACTS = 4, 9  # elements; a number between them is malformed


def encode_payload(message: Message, *, n: int | None = None) -> bytes:
    """The payload whose exact bytes are signed; n: a frame's number, in the place of its own.
    Raises ProtocolError for what no receiver would take."""
    try:
        payload = _pack(message)
        if n is not None:
            payload = (n, *payload[1:])
        _READERS[kind_of(message)](payload)
        return pack(payload)
    except (TypeError, ValueError, OverflowError) as error:  # a text with lone surrogates, a huge float, …
        raise malformed(f"{type(message).__name__} cannot be encoded: {error}") from error


def decode_payload(kind: Kind, payload: bytes) -> Message:
    """The message in a payload. Raises only ProtocolError (code malformed, or kind for one unknown here)."""
    reader = _READERS.get(kind)
    if reader is None:
        raise ProtocolError(f"no message of kind {int(kind)} is known", code="kind")
    return reader(unpack_payload(payload, _LONGEST_ARRAY.get(kind, MAX_ARRAY)))


def kind_of(message: Message) -> Kind:
    return _KINDS[type(message)]


def clip_text(text: str, most_bytes: int) -> str:
    """The longest beginning of `text` that has at most this many bytes of UTF-8, cut between characters."""
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")


# --- packing -------------------------------------------------------------------------------------


def _pack(message: Message) -> Fields:
    match message:
        case Token():
            logprobs = message.logprobs
            return (
                message.n,
                message.index,
                tuple(message.token_ids),
                tuple(message.texts),
                None if logprobs is None else tuple(map(g.pack_logprob, logprobs)),
            )
        case Progress():
            head = message.n, int(message.phase), message.value, message.est_ms
            return (*head, *g.pack_facts(message.facts))
        case Reject():
            return message.n, int(message.reason), message.retry_after_ms, message.boot
        case Ack():
            return message.n, message.next_n
        case Complete():
            return _pack_complete(message)
        case Error():
            return message.n, message.error, message.code, message.retryable
        case Cancel():
            return message.n, message.reason
        case Announce():
            return _pack_announce(message)
        case Leave():
            return (*g.pack_head(message.head), message.reason)
        case Request():
            return _pack_request(message)
        case Claim():
            return _pack_claim(message)
        case Assign():
            return _pack_assign(message)
        case Packet():
            return g.pack_packet(message)
        case _:
            assert_never(message)


def _pack_announce(message: Announce) -> Fields:
    return (
        *g.pack_head(message.head),
        message.node_name,
        g.pack_capacity(message.capacity),
        int(message.state),
        tuple(message.features),
        message.prekey,
        tuple(message.addresses),
        message.ttl_ms,
        tuple(message.heard),
        *((tuple(message.conversations),) if message.conversations else ()),
    )


def _pack_request(message: Request) -> Fields:
    return (
        *g.pack_head(message.head),
        message.request_id,
        message.model,
        message.prompt_tokens,
        (message.max_tokens,),
        message.priority,
        message.deadline_ms,
        message.requester,
        None if message.prompt is None else g.pack_prompt(message.prompt),
        None if message.config is None else g.pack_config(message.config),
    )


def _pack_claim(message: Claim) -> Fields:
    return (
        *g.pack_head(message.head),
        message.requester,
        message.request_id,
        message.worker,
        message.queue_position,
        message.est_ttft_ms,
        float(message.tokens_per_s),
        message.digest,
        message.numerics_id,
        int(message.numerics_class),
        message.prekey,
        tuple(message.addresses),
    )


def _pack_assign(message: Assign) -> Fields:
    return (
        *g.pack_head(message.head),
        message.request_id,
        message.attempt,
        message.worker,
        message.worker_boot,
        message.accept_by,
        g.pack_prompt(message.prompt),
        g.pack_config(message.config),
        g.pack_resume(message.resume),
        message.priority,
        message.deadline_ms,
        message.model,
        message.model_digest,
        message.date,
        *(() if message.conversation is None else (message.conversation,)),
    )


def _pack_complete(message: Complete) -> Fields:
    return (
        message.n,
        message.total_tokens,
        float(message.duration_secs),
        int(message.finish_reason),
        (message.prompt_tokens, message.completion_tokens),
        message.text_digest,
        message.model_digest,
    )


# --- reading -------------------------------------------------------------------------------------


def _read_announce(payload: Fields) -> Announce:
    p = f.group(payload, 11)
    feature = partial(f.ascii_text, MAX_FEATURE_BYTES)
    return Announce(
        head=g.read_head(p),
        node_name=f.short_text(MAX_NAME_BYTES, p[3]),
        capacity=g.read_capacity(p[4]),
        state=f.enum(NodeState, p[5]),
        features=f.array_of(feature, p[6], MAX_FEATURES),
        prekey=f.key(p[7]),
        addresses=f.array_of(f.text, p[8], MAX_ADDRESSES),
        ttl_ms=f.u64(p[9]),
        heard=f.array_of(g.read_heard, p[10], MAX_HEARD),
        conversations=f.array_of(f.mark, p[11], MAX_CONVERSATION_MARKS) if len(p) > 11 else (),
    )


def _read_leave(payload: Fields) -> Leave:
    p = f.group(payload, 4)
    return Leave(head=g.read_head(p), reason=f.text(p[3]))


def _read_request(payload: Fields) -> Request:
    p = f.group(payload, 12)
    return Request(
        head=g.read_head(p),
        request_id=f.request_id(p[3]),
        model=f.text(p[4]),
        prompt_tokens=f.u64(p[5]),
        max_tokens=f.u64(f.group(p[6], 1)[0]),
        priority=f.priority(p[7]),
        deadline_ms=f.u64(p[8]),
        requester=f.node_id(p[9]),
        prompt=f.optional(g.read_prompt, p[10]),
        config=f.optional(g.read_config, p[11]),
    )


def _read_claim(payload: Fields) -> Claim:
    p = f.group(payload, 14)
    return Claim(
        head=g.read_head(p),
        requester=f.node_id(p[3]),
        request_id=f.request_id(p[4]),
        worker=f.node_id(p[5]),
        queue_position=f.u64(p[6]),
        est_ttft_ms=f.u64(p[7]),
        tokens_per_s=f.f64(p[8]),
        digest=f.optional(f.digest, p[9]),
        numerics_id=f.optional(f.text, p[10]),
        numerics_class=f.enum(NumericsClass, p[11]),
        prekey=f.key(p[12]),
        addresses=f.array_of(f.text, p[13]),
    )


def _read_assign(payload: Fields) -> Assign:
    p = f.group(payload, 16)
    return Assign(
        head=g.read_head(p),
        request_id=f.request_id(p[3]),
        attempt=f.attempt(p[4]),
        worker=f.node_id(p[5]),
        worker_boot=f.u64(p[6]),
        accept_by=f.u64(p[7]),
        prompt=g.read_prompt(p[8]),
        config=g.read_config(p[9]),
        resume=f.optional(g.read_resume, p[10]),
        priority=f.priority(p[11]),
        deadline_ms=f.u64(p[12]),
        model=f.text(p[13]),
        model_digest=f.optional(f.digest, p[14]),
        date=f.date(p[15]),
        conversation=f.mark(p[16]) if len(p) > 16 else None,
    )


def _read_reject(payload: Fields) -> Reject:
    p = f.group(payload, 4)
    return Reject(f.u64(p[0]), f.enum(RejectReason, p[1]), f.u64(p[2]), f.u64(p[3]))


def _read_progress(payload: Fields) -> Progress:
    size = len(payload)
    if size > _PROGRESS_LISTED:
        p = f.group(payload, _PROGRESS_WITH_FACTS)
        facts = g.read_facts(p[_PROGRESS_LISTED:_PROGRESS_WITH_FACTS])
    else:
        p = f.group(payload, _PROGRESS_LISTED)
        facts = None
    return Progress(f.u64(p[0]), f.enum(Phase, p[1]), f.u64(p[2]), f.u64(p[3]), facts)


def _read_token(payload: Fields) -> Token:
    p = f.group(payload, 5)
    token = Token(
        n=f.u64(p[0]),
        index=f.u64(p[1]),
        token_ids=f.token_ids(p[2], MAX_TOKEN_ARRAY),
        texts=f.array_of(f.text, p[3], MAX_TOKEN_ARRAY),
        logprobs=None if p[4] is None else f.array_of(g.read_logprob, p[4], MAX_TOKEN_ARRAY),
    )
    count = len(token.texts)
    if count == 0:
        raise malformed("a Token without texts")
    if token.token_ids and len(token.token_ids) != count:
        raise malformed("token_ids that are not as many as texts")
    if token.logprobs is not None and len(token.logprobs) != count:
        raise malformed("logprobs that are not as many as texts")
    return token


def _read_ack(payload: Fields) -> Ack:
    p = f.group(payload, 2)
    return Ack(f.u64(p[0]), f.u64(p[1]))


def _read_complete(payload: Fields) -> Complete:
    p = f.group(payload, 7)
    usage = f.group(p[4], 2)
    complete = Complete(
        n=f.u64(p[0]),
        total_tokens=f.u64(p[1]),
        duration_secs=f.f64(p[2]),
        finish_reason=f.enum(FinishReason, p[3]),
        prompt_tokens=f.u64(usage[0]),
        completion_tokens=f.u64(usage[1]),
        text_digest=f.digest(p[5]),
        model_digest=f.optional(f.digest, p[6]),
    )
    if complete.completion_tokens != complete.total_tokens:
        raise malformed("completion_tokens other than total_tokens")
    return complete


def _read_error(payload: Fields) -> Error:
    p = f.group(payload, 4)
    return Error(f.u64(p[0]), f.short_text(MAX_ERROR_BYTES, p[1]), f.text(p[2]), f.flag(p[3]))


def _read_cancel(payload: Fields) -> Cancel:
    p = f.group(payload, 2)
    return Cancel(f.u64(p[0]), f.text(p[1]))


_READERS: dict[Kind, Callable[[Fields], Message]] = {
    Kind.ANNOUNCE: _read_announce,
    Kind.LEAVE: _read_leave,
    Kind.REQUEST: _read_request,
    Kind.CLAIM: _read_claim,
    Kind.ASSIGN: _read_assign,
    Kind.PACKET: g.read_packet,
    Kind.REJECT: _read_reject,
    Kind.PROGRESS: _read_progress,
    Kind.TOKEN: _read_token,
    Kind.ACK: _read_ack,
    Kind.COMPLETE: _read_complete,
    Kind.ERROR: _read_error,
    Kind.CANCEL: _read_cancel,
}

_KINDS: dict[type[Message], Kind] = {
    Announce: Kind.ANNOUNCE,
    Leave: Kind.LEAVE,
    Request: Kind.REQUEST,
    Claim: Kind.CLAIM,
    Assign: Kind.ASSIGN,
    Packet: Kind.PACKET,
    Reject: Kind.REJECT,
    Progress: Kind.PROGRESS,
    Token: Kind.TOKEN,
    Ack: Kind.ACK,
    Complete: Kind.COMPLETE,
    Error: Kind.ERROR,
    Cancel: Kind.CANCEL,
}

# The longest array that a payload of the kind may hold anywhere; each field then keeps its own limit.
_LONGEST_ARRAY: dict[Kind, int] = {
    Kind.TOKEN: MAX_TOKEN_ARRAY,
    Kind.REQUEST: MAX_TOKEN_IDS,
    Kind.ASSIGN: MAX_TOKEN_IDS,
}
