"""Admission: whether this node takes an Assign, decided before any work.

The law: a refusal is signed and says why, and when to come again; nothing is computed for what would be
refused later. Rules that ask the running state (attempt numbers, slots) are the worker's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_gossip.protocol.jobqueue import (
    OPEN_NETWORK_CAPS,
    OPEN_NETWORK_PRIORITY,
    STRANGER_PRIORITY,
    TOP_PRIORITY,
    Caps,
)
from llama_gossip.protocol.messages import (
    Assign,
    Capacity,
    ChatPrompt,
    IdsPrompt,
    ModelOffer,
    NodeId,
    Prompt,
    RawPrompt,
    RejectReason,
)

MAX_PROMPT_BYTES = 1024 * 1024  # what an Assign can carry at most
MAX_REQUEST_TOKENS = 32_768  # max_tokens of one request: half an hour of a slow model


@dataclass(frozen=True, slots=True)
class Policy:
    """This node's own rules for what it takes from others."""

    open_network: bool = False  # nobody vouches for the keys in it
    caps: Caps = field(default_factory=Caps)
    stranger_priority: int = STRANGER_PRIORITY
    max_prompt_bytes: int = MAX_PROMPT_BYTES
    max_tokens: int = MAX_REQUEST_TOKENS

    def caps_for(self, friend: bool) -> Caps:
        return OPEN_NETWORK_CAPS if self.open_network and not friend else self.caps

    def priority_for(self, asked: int, friend: bool) -> int:
        if friend:
            return min(asked, TOP_PRIORITY)
        most = OPEN_NETWORK_PRIORITY if self.open_network else self.stranger_priority
        return min(asked, most)


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: RejectReason
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """What the node serves now."""

    capacity: Capacity | None
    loading: bool
    draining: bool


def refusal_of(assign: Assign, *, boot: int, offer: Offer, policy: Policy, retry_ms: int) -> Refusal | None:
    """None: it may be queued. `retry_ms`: what a loading node says."""
    if assign.worker_boot != boot:
        return Refusal(RejectReason.STALE_BOOT)
    if offer.draining:
        return Refusal(RejectReason.DRAINING)
    if offer.capacity is None:
        return Refusal(RejectReason.FULL, retry_ms) if offer.loading else Refusal(RejectReason.MODEL)
    model = model_of(assign, offer.capacity)
    if model is None:
        return Refusal(RejectReason.MODEL)
    if assign.model_digest is not None and assign.model_digest != model.digest:
        return Refusal(RejectReason.DIGEST)
    if assign.config.max_tokens > policy.max_tokens:
        return Refusal(RejectReason.POLICY)
    if _too_long(assign, model, policy):
        return Refusal(RejectReason.TOO_LONG)
    return None


def model_of(assign: Assign, capacity: Capacity) -> ModelOffer | None:
    """The offer that it names; "" names the first."""
    return next((m for m in capacity.models if assign.model in ("", m.name)), None)


def _too_long(assign: Assign, model: ModelOffer, policy: Policy) -> bool:
    """As far as it shows without a tokeniser; the engine counts exactly."""
    known = len(assign.prompt.ids) if isinstance(assign.prompt, IdsPrompt) else 1
    resumed = 0 if assign.resume is None else assign.resume.from_index
    if resumed > assign.config.max_tokens or known + assign.config.needed > model.context:
        return True
    return prompt_bytes(assign.prompt) > policy.max_prompt_bytes


def prompt_bytes(prompt: Prompt) -> int:
    match prompt:
        case RawPrompt(text):
            return len(text.encode("utf-8"))
        case ChatPrompt(messages):
            return sum(len(role.encode("utf-8")) + len(content.encode("utf-8")) for role, content in messages)
        case IdsPrompt(ids):
            return 4 * len(ids)


def is_friend(requester: NodeId, own_id: NodeId, allowlist: frozenset[NodeId] | None) -> bool:
    return requester == own_id or (allowlist is not None and requester in allowlist)
