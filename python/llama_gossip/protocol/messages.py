"""The messages of protocol version 1, as frozen values: one class a kind, fields in wire order.

Pure data: `codec.py` turns them into payload bytes and back, `envelope.py` signs kinds 1-5 and 13,
`frames.py` signs kinds 6-12. Durations are milliseconds, sizes bytes, digests 32 bytes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NewType, TypeAlias

from llama_gossip.protocol.record import record

NodeId = NewType("NodeId", bytes)  # 32 bytes, an ed25519 public key
RequestId = NewType("RequestId", bytes)  # 16 random bytes, unique only together with its requester

PROTOCOL_VERSION = 1


class Kind(IntEnum):
    ANNOUNCE = 1
    LEAVE = 2
    REQUEST = 3
    CLAIM = 4
    ASSIGN = 5
    REJECT = 6
    PROGRESS = 7
    TOKEN = 8
    ACK = 9
    COMPLETE = 10
    ERROR = 11
    CANCEL = 12
    PACKET = 13


class NumericsClass(IntEnum):
    EXACT = 0
    FP32 = 1
    FAST = 2


class NodeState(IntEnum):
    LOADING = 0
    READY = 1
    DRAINING = 2
    CLIENT = 3


class RejectReason(IntEnum):
    FULL = 0
    MODEL = 1
    TOO_LONG = 2
    STALE_BOOT = 3
    LATE = 4
    POLICY = 5
    DRAINING = 6
    DIGEST = 7


class Phase(IntEnum):
    QUEUED = 0
    PREFILL = 1
    DECODE = 2


class FinishReason(IntEnum):
    STOP = 0
    LENGTH = 1
    CANCELLED = 2


@record(frozen=True, slots=True)
class Head:
    """H: what every envelope's payload begins with."""

    boot: int  # u64, start time of the signer's process, ms since the epoch
    seq: int  # u64, strictly rising over the signer's envelopes
    ts: int  # u64, wall clock at signing, ms since the epoch


# --- groups ------------------------------------------------------------------------------------


@record(frozen=True, slots=True)
class ModelOffer:
    """One model of an Announce."""

    name: str  # <= 40 B UTF-8
    digest: bytes | None
    context: int  # tokens, prompt and answer together
    quantisation: str
    numerics_id: str | None
    numerics_class: NumericsClass


@record(frozen=True, slots=True)
class Capacity:
    """What a worker is and how busy it is."""

    backend: str
    device: str
    models: tuple[ModelOffer, ...]  # <= 32
    max_concurrent: int
    current_load: int  # running jobs
    queue_depth: int  # waiting jobs
    queue_ms: int  # estimated wait of a new job
    tokens_per_s: float
    memory_free: int  # bytes


@record(frozen=True, slots=True)
class RawPrompt:
    """Fed as it is."""

    text: str


@record(frozen=True, slots=True)
class ChatPrompt:
    """Rendered by the worker through the model's chat template, with the Assign's date."""

    messages: tuple[tuple[str, str], ...]  # (role, content), <= 4 096


@record(frozen=True, slots=True)
class IdsPrompt:
    """Token ids, fed as they are."""

    ids: tuple[int, ...]  # <= 262 144


Prompt: TypeAlias = RawPrompt | ChatPrompt | IdsPrompt


@record(frozen=True, slots=True)
class GenerationConfig:
    """How to sample. Defaults are the command line's."""

    max_tokens: int = 50
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int | None = None
    seed: int = 0  # u64; the requester always sends one, so that every request can be resumed
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # alternatives a token, 0-20
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    fit: bool = False  # fewer than max_tokens where the context leaves no room for as many

    @property
    def needed(self) -> int:
        """Tokens of an answer that a context must have room for behind the prompt."""
        return 1 if self.fit else self.max_tokens


@record(frozen=True, slots=True)
class Resume:
    """What an earlier attempt delivered: the continuation starts at token `from_index`."""

    from_index: int
    token_ids: tuple[int, ...]  # empty or from_index long
    text: str
    prompt_digest: bytes | None
    numerics_id: str | None


# --- envelopes: kinds 1-5 ----------------------------------------------------------------------


@record(frozen=True, slots=True)
class Announce:
    head: Head
    node_name: str
    capacity: Capacity
    state: NodeState
    features: tuple[str, ...]  # <= 16 ASCII names <= 24 B, among them "role/…" and "v/…"
    prekey: bytes  # X25519, 32 bytes
    addresses: tuple[str, ...]  # "ip:port", <= 8
    ttl_ms: int
    heard: tuple[tuple[bytes, int], ...]  # (first 8 bytes of a signer, seq of its newest Announce), <= 3
    conversations: tuple[bytes, ...] = ()  # marks of those that it holds, the newest first, <= 16; the tail


@record(frozen=True, slots=True)
class Leave:
    head: Head
    reason: str


@record(frozen=True, slots=True)
class Request:
    head: Head
    request_id: RequestId
    model: str
    prompt_tokens: int  # rounded up to a power of two
    max_tokens: int  # on the wire an array of one
    priority: int  # 0-9, 9 the most urgent
    deadline_ms: int  # relative, what remains at signing
    requester: NodeId
    prompt: Prompt | None = None  # public networks only
    config: GenerationConfig | None = None


@record(frozen=True, slots=True)
class Claim:
    head: Head
    requester: NodeId
    request_id: RequestId
    worker: NodeId
    queue_position: int
    est_ttft_ms: int
    tokens_per_s: float
    digest: bytes | None
    numerics_id: str | None
    numerics_class: NumericsClass
    prekey: bytes
    addresses: tuple[str, ...]


@record(frozen=True, slots=True)
class Assign:
    head: Head
    request_id: RequestId
    attempt: int  # >= 1, the fencing token
    worker: NodeId
    worker_boot: int
    accept_by: int  # ms, the worker's wall clock
    prompt: Prompt
    config: GenerationConfig
    resume: Resume | None
    priority: int
    deadline_ms: int
    model: str
    model_digest: bytes | None
    date: str  # "YYYY-MM-DD"
    conversation: bytes | None = None  # its mark, 8 bytes that its requester alone can read; the tail


@record(frozen=True, slots=True)
class Seal:
    """Which two keys a Packet is sealed with."""

    prekey_id: bytes  # the first 8 bytes of the worker's prekey
    epk: bytes  # X25519, the requester's, of this attempt


@record(frozen=True, slots=True)
class Packet:
    """Items of one attempt that travel over the topic: gossip delivery."""

    head: Head
    to: NodeId
    requester: NodeId
    request_id: RequestId
    attempt: int
    seal: Seal | None  # None: everybody may read the body
    body: bytes


# --- frames: kinds 6-12; n is their number in their direction of the attempt ---------------------


@record(frozen=True, slots=True)
class Reject:
    n: int
    reason: RejectReason
    retry_after_ms: int
    boot: int


@record(frozen=True, slots=True)
class PromptFacts:
    """What the first Progress of an attempt adds."""

    prompt_tokens: int
    prompt_digest: bytes | None
    model_digest: bytes | None
    numerics_id: str | None
    numerics_class: NumericsClass


@record(frozen=True, slots=True)
class Progress:
    n: int
    phase: Phase
    value: int  # position when queued, percent of prefill, tokens made in decode
    est_ms: int
    facts: PromptFacts | None = None


@record(frozen=True, slots=True)
class TokenLogprob:
    logprob: float
    top: tuple[tuple[str, float], ...]


@record(frozen=True, slots=True)
class Token:
    n: int
    index: int  # of the first token of the batch, counted from the answer's start
    token_ids: tuple[int, ...]  # as long as texts, or empty from an engine without ids
    texts: tuple[str, ...]  # >= 1
    logprobs: tuple[TokenLogprob, ...] | None = None


@record(frozen=True, slots=True)
class Ack:
    """Gossip delivery only. Carries its sender's next n and uses none up."""

    n: int
    next_n: int


@record(frozen=True, slots=True)
class Complete:
    n: int
    total_tokens: int
    duration_secs: float
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int  # = total_tokens
    text_digest: bytes
    model_digest: bytes | None


@record(frozen=True, slots=True)
class Error:
    n: int
    error: str  # <= 256 B, one sentence
    code: str
    retryable: bool


@record(frozen=True, slots=True)
class Cancel:
    n: int
    reason: str


EnvelopeMessage: TypeAlias = Announce | Leave | Request | Claim | Assign | Packet
Frame: TypeAlias = Reject | Progress | Token | Ack | Complete | Error | Cancel
Message: TypeAlias = EnvelopeMessage | Frame
