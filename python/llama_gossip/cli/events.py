"""What the commands say, as values. The law: a line of `--json` is one of these dataclasses, field by field,
behind its `event` and `ts_ms`; the text for people is made from the same value. Ids are lowercase hex."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, TypeAlias

SHORT_ID = 10  # hex characters: enough to tell peers apart by eye


@dataclass(frozen=True, slots=True)
class Ready:
    event: ClassVar[str] = "ready"
    node_id: str
    name: str
    role: str  # worker | client | hybrid | gateway
    ticket: str
    models: tuple[str, ...]
    device: str
    reach: str


@dataclass(frozen=True, slots=True)
class ReadyAt(Ready):
    """Of a node that serves HTTP."""

    url: str


@dataclass(frozen=True, slots=True)
class PeerUp:
    event: ClassVar[str] = "peer_up"
    node_id: str
    name: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeerDown:
    event: ClassVar[str] = "peer_down"
    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Request:
    """At the acceptance of an Assign, with the client's request id."""

    event: ClassVar[str] = "request"
    request_id: str
    requester: str
    model: str


@dataclass(frozen=True, slots=True)
class RequestEnd:
    event: ClassVar[str] = "request_end"
    request_id: str
    tokens: int
    reason: str


@dataclass(frozen=True, slots=True)
class Token:
    event: ClassVar[str] = "token"
    request_id: str
    index: int
    token_id: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Failover:
    """Before the first token of the worker that continues."""

    event: ClassVar[str] = "failover"
    request_id: str
    attempt: int
    from_worker: str
    to_worker: str
    index: int
    gap_ms: float
    class_: str  # exact | ids | text
    reason: str


@dataclass(frozen=True, slots=True)
class Complete:
    event: ClassVar[str] = "complete"
    request_id: str
    text: str
    total_tokens: int
    finish_reason: str
    model: str
    model_digest: str | None
    worker: str
    attempts: int  # 1 without failover
    first_token_ms: float  # from the joined node's submit
    tokens_per_s: float
    delivery: str
    resume: str | None
    verified: bool


@dataclass(frozen=True, slots=True)
class Failure:
    event: ClassVar[str] = "error"
    code: str
    message: str
    hint: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    event: ClassVar[str] = "shutdown"
    reason: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """In the place of lines that the reader of stdout was too slow for."""

    event: ClassVar[str] = "dropped"
    lines: int


# --- one-shot commands --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One peer, as `peers` shows it."""

    event: ClassVar[str] = "peer"
    node_id: str
    name: str
    role: str
    state: str
    models: tuple[str, ...]
    device: str
    tokens_per_s: float
    queue_depth: int
    running: int
    max_concurrent: int
    last_seen_s: float
    addresses: tuple[str, ...]
    version: str
    path: str  # direct | relayed | ""
    rtt_ms: float | None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model that `worker --model` takes, or a file of one."""

    event: ClassVar[str] = "model"
    name: str
    title: str
    state: str  # ready | fetchable | missing | built_in | folder
    licence: str
    path: str
    default: bool


@dataclass(frozen=True, slots=True)
class KeyRow:
    event: ClassVar[str] = "key"
    name: str
    node_id: str
    path: str


@dataclass(frozen=True, slots=True)
class TicketRow:
    event: ClassVar[str] = "ticket"
    ticket: str
    network: str
    peers: tuple[str, ...]


CliEvent: TypeAlias = (
    Ready
    | PeerUp
    | PeerDown
    | Request
    | RequestEnd
    | Token
    | Failover
    | Complete
    | Failure
    | Shutdown
    | Dropped
    | PeerRow
    | ModelRow
    | KeyRow
    | TicketRow
)


def as_object(event: CliEvent, ts_ms: int) -> dict[str, object]:
    """The JSON object of an event, in the order of its fields. `class_` is what Python calls `class`."""
    values = {field.name.rstrip("_"): getattr(event, field.name) for field in fields(event)}
    return {"event": event.event, "ts_ms": ts_ms, **values}
