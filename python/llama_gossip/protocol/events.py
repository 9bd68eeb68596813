"""What happens to the core. Values only: the driver (or a test, or the simulator) makes them."""

from __future__ import annotations

from typing import TypeAlias

from llama_gossip.protocol.messages import (
    Capacity,
    FinishReason,
    GenerationConfig,
    NodeId,
    Phase,
    Prompt,
    PromptFacts,
    RequestId,
    TokenLogprob,
)
from llama_gossip.protocol.record import record
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.protocol.streams import Delivery, Visibility


@record(frozen=True, slots=True)
class Now:
    """Both clocks. Timers use mono; wall is for ts, boot and accept_by only."""

    mono_ms: int
    wall_ms: int


# --- gossip ------------------------------------------------------------------------------------


@record(frozen=True, slots=True)
class GossipReceived:
    delivered_from: NodeId  # the neighbour that passed it on, not its author
    data: bytes


@record(frozen=True, slots=True)
class NeighborUp:
    node_id: NodeId


@record(frozen=True, slots=True)
class NeighborDown:
    node_id: NodeId


# --- streams: ids come from the driver -----------------------------------------------------------


@record(frozen=True, slots=True)
class StreamAccepted:
    stream: int
    remote: NodeId  # authentic: proven by the handshake


@record(frozen=True, slots=True)
class StreamOpened:
    """A dial that the core asked for (effect OpenStream with this dial number) succeeded."""

    dial: int
    stream: int


@record(frozen=True, slots=True)
class DialFailed:
    dial: int
    reason: str
    refused: bool = False  # one of the two sides does not admit the other: another try is in vain


@record(frozen=True, slots=True)
class StreamData:
    stream: int
    data: bytes


@record(frozen=True, slots=True)
class StreamFinished:
    stream: int


@record(frozen=True, slots=True)
class StreamReset:
    """The peer abandoned its side."""

    stream: int
    code: int


@record(frozen=True, slots=True)
class StreamStopped:
    """The peer reads no more of ours."""

    stream: int
    code: int


@record(frozen=True, slots=True)
class StreamLost:
    stream: int
    reason: str
    refused: bool = False  # the peer does not admit this node


@record(frozen=True, slots=True)
class StreamFull:
    """MAX_UNWRITTEN_BYTES and more wait to be written to it: its peer does not read, or not as fast."""

    stream: int


@record(frozen=True, slots=True)
class StreamWritable:
    """Of a stream that was full: half of that waits still."""

    stream: int


StreamWord: TypeAlias = StreamData | StreamFinished | StreamReset | StreamStopped | StreamLost
StreamPressure: TypeAlias = StreamFull | StreamWritable
StreamEvent: TypeAlias = StreamAccepted | StreamWord | StreamPressure


# --- the user ------------------------------------------------------------------------------------


@record(frozen=True, slots=True)
class Submit:
    """A new request of this node's user."""

    request_id: RequestId
    model: str  # "" = any model that is offered
    prompt: Prompt
    config: GenerationConfig
    date: str  # "YYYY-MM-DD", today, sent along so that every worker renders the same prompt
    prompt_tokens: int = 0  # an upper estimate, 0 = unknown
    priority: int = 5
    deadline_ms: int | None = None  # None: the protocol's default
    worker: NodeId | None = None  # only this one
    model_digest: bytes | None = None  # only this one
    resume: ResumeClass = ResumeClass.IDS  # the least that a continuation by another worker may be
    delivery: Delivery = Delivery.AUTO
    visibility: Visibility = Visibility.PRIVATE  # public: by gossip, whatever `delivery` says


@record(frozen=True, slots=True)
class CancelRequest:
    request_id: RequestId
    reason: str


@record(frozen=True, slots=True)
class ReaderFull:
    """Whoever reads this answer is MAX_UNREAD_BYTES behind."""

    request_id: RequestId


@record(frozen=True, slots=True)
class ReaderReady:
    """It reads again, and half of that has room."""

    request_id: RequestId


# --- the own engine ----------------------------------------------------------------------------


@record(frozen=True, slots=True)
class EngineChanged:
    """The node's own offer: announced from now on. None: no engine (a client)."""

    capacity: Capacity | None
    loading: bool = False


@record(frozen=True, slots=True)
class EngineStarted:
    """Tokenised, admitted, prefill begins."""

    job: int
    facts: PromptFacts


@record(frozen=True, slots=True)
class EngineProgress:
    job: int
    phase: Phase
    value: int


@record(frozen=True, slots=True)
class EngineTokens:
    job: int
    index: int
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None


@record(frozen=True, slots=True)
class EngineDone:
    job: int
    finish_reason: FinishReason
    total_tokens: int
    prompt_tokens: int
    text_digest: bytes
    model_digest: bytes | None


@record(frozen=True, slots=True)
class EngineFailed:
    job: int
    code: str
    message: str
    retryable: bool


@record(frozen=True, slots=True)
class EngineStepped:
    """The model has stepped: the hung-engine check lives on it. One a heartbeat is enough."""


# --- the rest --------------------------------------------------------------------------------------


@record(frozen=True, slots=True)
class Joined:
    """The topic is joined; announcing begins. addresses: own "ip:port" list, put into Announces."""

    addresses: tuple[str, ...]


@record(frozen=True, slots=True)
class Drain:
    """Begin to leave: reject new work, finish what runs, tell the others."""

    reason: str


@record(frozen=True, slots=True)
class Goodbye:
    """The end: a Leave is broadcast, every live stream reset with code 5."""

    reason: str


@record(frozen=True, slots=True)
class Tick:
    """A timer fired (effect Wake) or the driver felt like it."""


Event: TypeAlias = (
    GossipReceived
    | NeighborUp
    | NeighborDown
    | StreamOpened
    | DialFailed
    | StreamEvent
    | Submit
    | CancelRequest
    | ReaderFull
    | ReaderReady
    | EngineChanged
    | EngineStarted
    | EngineProgress
    | EngineTokens
    | EngineDone
    | EngineFailed
    | EngineStepped
    | Joined
    | Drain
    | Goodbye
    | Tick
)
