"""What the core asks of its driver. Values only: drivers perform them in order, tests compare them."""

from __future__ import annotations

from typing import TypeAlias

from llama_gossip.protocol.messages import (
    FinishReason,
    GenerationConfig,
    NodeId,
    Prompt,
    RequestId,
    Resume,
    TokenLogprob,
)
from llama_gossip.protocol.record import record
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.protocol.streams import Plane


@record(frozen=True, slots=True)
class Broadcast:
    data: bytes
    urgent: bool = False


@record(frozen=True, slots=True)
class OpenStream:
    """Dial; ends as StreamOpened or DialFailed with the same dial number."""

    dial: int
    worker: NodeId
    timeout_ms: int


@record(frozen=True, slots=True)
class AbandonDial:
    """Nobody waits for it any more; a stream that still comes of it is reset by the driver."""

    dial: int


@record(frozen=True, slots=True)
class WriteStream:
    stream: int
    data: bytes


@record(frozen=True, slots=True)
class FinishStream:
    stream: int


@record(frozen=True, slots=True)
class ResetStream:
    """Abandon both directions: reset ours, stop theirs. Codes: PROTOCOL section 5."""

    stream: int
    code: int


@record(frozen=True, slots=True)
class PauseStream:
    """Read no more of it until ResumeStream: its writer feels it. What is on its way may still come."""

    stream: int


@record(frozen=True, slots=True)
class ResumeStream:
    stream: int


@record(frozen=True, slots=True)
class TrustStream:
    """Its connection has carried a valid Assign: lift the limits for strangers."""

    stream: int


@record(frozen=True, slots=True)
class StartJob:
    job: int
    requester: NodeId
    request_id: RequestId
    attempt: int
    model: str
    prompt: Prompt
    config: GenerationConfig
    date: str
    resume: Resume | None
    deadline_ms: int


@record(frozen=True, slots=True)
class CancelJob:
    job: int
    reason: str


@record(frozen=True, slots=True)
class ParkJob:
    """Its requester does not read: left out of the engine's steps until UnparkJob or its end."""

    job: int


@record(frozen=True, slots=True)
class UnparkJob:
    job: int


@record(frozen=True, slots=True)
class AddressHint:
    """Addresses that a signed Announce gave for a node."""

    node_id: NodeId
    addresses: tuple[str, ...]


@record(frozen=True, slots=True)
class RebuildGossip:
    """Nobody hears this node any more: close its connections of the topic and join anew."""

    times: int  # in a row, this one included, without a sign that one has helped


@record(frozen=True, slots=True)
class Wake:
    """Call handle(Tick) at this monotonic time; replaces the earlier Wake. None: no timer is set."""

    at_mono_ms: int | None


# --- to the user ---------------------------------------------------------------------------------


@record(frozen=True, slots=True)
class Accepted:
    """A worker has taken the request (its first Progress or Token came)."""

    request_id: RequestId
    worker: NodeId
    attempt: int
    delivery: Plane = Plane.DIRECT


@record(frozen=True, slots=True)
class DeliverTokens:
    """The contiguous next tokens of an answer, released once."""

    request_id: RequestId
    index: int
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    logprobs: tuple[TokenLogprob, ...] | None
    worker: NodeId
    attempt: int


@record(frozen=True, slots=True)
class Retried:
    """An attempt ended without success and another begins."""

    request_id: RequestId
    attempt: int  # the one that ended
    worker: NodeId
    reason: str


@record(frozen=True, slots=True)
class FailedOver:
    """Another worker continues an answer that has begun. Told before its first token."""

    request_id: RequestId
    attempt: int  # the one that continues
    from_worker: NodeId
    to_worker: NodeId
    index: int  # of its first token
    gap_ms: int  # between the last token before and the first one after
    resume: ResumeClass
    reason: str  # why the earlier attempt ended


@record(frozen=True, slots=True)
class Finished:
    """The one terminal event of a successful request."""

    request_id: RequestId
    finish_reason: FinishReason
    total_tokens: int
    prompt_tokens: int
    duration_secs: float  # as the worker measured it
    worker: NodeId
    attempt: int
    model: str
    model_digest: bytes | None
    text_digest: bytes
    delivery: Plane = Plane.DIRECT  # of the last attempt


@record(frozen=True, slots=True)
class Failed:
    """The one terminal event of a failed or cancelled request.

    code: no_workers | model | too_long | peer_failed | timeout | cancelled | bad_request | digest
    trail: one line an attempt or worker: (worker, attempt or 0, reason)."""

    request_id: RequestId
    code: str
    message: str
    hint: str
    trail: tuple[tuple[NodeId, int, str], ...] = ()


# --- news, for logs, events and counters -----------------------------------------------------------


@record(frozen=True, slots=True)
class PeerUp:
    node_id: NodeId
    boot: int


@record(frozen=True, slots=True)
class PeerDown:
    node_id: NodeId
    reason: str


@record(frozen=True, slots=True)
class JobAccepted:
    """This node took a job, for its own log."""

    job: int
    request_id: RequestId
    requester: NodeId
    model: str
    boot: int  # of the process that has asked for it


@record(frozen=True, slots=True)
class JobEnded:
    job: int
    request_id: RequestId
    requester: NodeId
    tokens: int
    reason: str


@record(frozen=True, slots=True)
class Drained:
    """After Drain: no job is left."""


Effect: TypeAlias = (
    Broadcast
    | OpenStream
    | AbandonDial
    | WriteStream
    | FinishStream
    | ResetStream
    | PauseStream
    | ResumeStream
    | TrustStream
    | StartJob
    | CancelJob
    | ParkJob
    | UnparkJob
    | AddressHint
    | RebuildGossip
    | Wake
    | Accepted
    | DeliverTokens
    | Retried
    | FailedOver
    | Finished
    | Failed
    | PeerUp
    | PeerDown
    | JobAccepted
    | JobEnded
    | Drained
)
