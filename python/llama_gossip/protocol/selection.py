"""Selection: which worker gets the next attempt.

The law: first what cannot be (model, digest, context, state, allowlist), told with a reason a peer; then what
must not be now (refused, held, out, cooling down); then the better of two drawn at random, so that many
requesters with the same news do not all run to the same worker. Chance is the caller's `rng`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from llama_gossip.protocol.affinity import AFFINITY_FACTOR
from llama_gossip.protocol.events import Now
from llama_gossip.protocol.ledger import Ledger, Record
from llama_gossip.protocol.messages import Capacity, ModelOffer, NodeId, NodeState
from llama_gossip.protocol.record import record
from llama_gossip.protocol.resumption import Continuation, ResumeClass
from llama_gossip.protocol.roster import Peer
from llama_gossip.protocol.streams import Plane
from llama_gossip.protocol.timers import Timers

EXPLORE_SHARE = 0.05  # of the picks in a closed network: old measurements get a second chance
UNKNOWN_TOKENS_PER_S = 10.0  # a worker that announces no speed: neither favoured nor starved
SLOWEST_TOKENS_PER_S = 0.001  # what an announced speed is at least: negative or next to zero makes no score
UNKNOWN_TTFT_MS = 200.0
ALIKE = 1.2  # measurements of equal workers differ by as much: without it the last of them is never asked
SATURATED_MS = 60_000.0  # what a stale Announce adds: chosen only when nobody fresh is there


class Unfit(StrEnum):
    CLIENT = "client"
    LOADING = "loading"
    DRAINING = "draining"
    NOT_ALLOWED = "not_allowed"
    OTHER = "other_worker"
    MODEL = "model"
    DIGEST = "digest"
    TOO_LONG = "too_long"
    RESUME = "resume"


@record(frozen=True, slots=True)
class Want:
    """What a request asks of a worker."""

    model: str  # "" = any
    model_digest: bytes | None
    least_tokens: int  # prompt (as far as it is known without a tokeniser) and answer together
    max_tokens: int
    worker: NodeId | None
    continuation: Continuation | None = None  # None: the answer begins

    def promised(self, offer: ModelOffer) -> ResumeClass | None:
        """How this offer would continue the answer; None: there is nothing to continue."""
        return None if self.continuation is None else self.continuation.promised(offer)


@record(frozen=True, slots=True)
class Candidate:
    node_id: NodeId
    boot: int
    order: tuple[int, int]  # (boot, seq) of the Announce that this stands on
    ts: int  # the worker's wall clock in it
    received_mono_ms: int
    offer: ModelOffer
    capacity: Capacity
    prekey: bytes
    est_ttft_ms: int | None = None  # by its Claim; None: it stands on an Announce
    plane: Plane = Plane.DIRECT  # on which it is asked
    conversations: tuple[bytes, ...] = ()  # marks of those that it says it holds


@dataclass(slots=True)
class Survey:
    fit: list[Candidate] = field(default_factory=list)
    unfit: list[tuple[NodeId, Unfit, str]] = field(default_factory=list)


def survey(
    peers: Iterable[tuple[NodeId, Peer]], want: Want, *, allowlist: frozenset[NodeId] | None, now: Now
) -> Survey:
    """Who can, and why the others cannot."""
    found = Survey()
    for node_id, peer in peers:
        if peer.expires_mono_ms <= now.mono_ms:
            continue
        fits = _fit(node_id, peer, want, allowlist)
        if isinstance(fits, Candidate):
            found.fit.append(fits)
        else:
            found.unfit.append((node_id, *fits))
    return found


def _fit(
    node_id: NodeId, peer: Peer, want: Want, allowlist: frozenset[NodeId] | None
) -> Candidate | tuple[Unfit, str]:
    announce = peer.announce
    if allowlist is not None and node_id not in allowlist:
        return Unfit.NOT_ALLOWED, "is not on the allowlist"
    if want.worker is not None and node_id != want.worker:
        return Unfit.OTHER, "is not the worker that was asked for"
    match announce.state:
        case NodeState.CLIENT:
            return Unfit.CLIENT, "is a client"
        case NodeState.LOADING:
            return Unfit.LOADING, "is still loading its model"
        case NodeState.DRAINING:
            return Unfit.DRAINING, "is leaving"
        case NodeState.READY:
            pass
    offer = offer_for(announce.capacity.models, want)
    if not isinstance(offer, ModelOffer):
        return offer
    return Candidate(
        node_id=node_id,
        boot=announce.head.boot,
        order=peer.order,
        ts=announce.head.ts,
        received_mono_ms=peer.received_mono_ms,
        offer=offer,
        capacity=announce.capacity,
        prekey=announce.prekey,
        conversations=announce.conversations,
    )


def offer_for(models: tuple[ModelOffer, ...], want: Want) -> ModelOffer | tuple[Unfit, str]:
    """The first model that serves it; otherwise the reason that comes closest."""
    named = [m for m in models if want.model in ("", m.name)]
    if not named:
        return Unfit.MODEL, "serves " + (", ".join(repr(m.name) for m in models) or "no model")
    equal = [m for m in named if want.model_digest is None or m.digest == want.model_digest]
    if not equal:
        return Unfit.DIGEST, "serves other weights under this name"
    roomy = [m for m in equal if want.least_tokens <= m.context]
    if not roomy:
        context = max(m.context for m in equal)
        return Unfit.TOO_LONG, f"has a context of {context} tokens, at least {want.least_tokens} are needed"
    going_on = want.continuation
    if going_on is None:
        return roomy[0]
    fit = [m for m in roomy if going_on.allows(m)]
    if not fit:
        best = max(going_on.promised(m) for m in roomy)
        return Unfit.RESUME, f"could continue the answer by {best.word} only, not by {going_on.least.word}"
    return max(fit, key=going_on.promised)


@record(frozen=True, slots=True)
class Chooser:
    """Draws one of the candidates."""

    ledger: Ledger
    timers: Timers
    rng: random.Random
    explore_share: float = EXPLORE_SHARE

    def choose(
        self,
        candidates: list[Candidate],
        want: Want,
        *,
        barred: Callable[[NodeId], bool],
        now: Now,
        holder: NodeId | None = None,
    ) -> Candidate | None:
        """`barred`: what this one request must not try again or is trying already. holder: who holds its
        conversation."""
        pool = [c for c in candidates if not barred(c.node_id) and self.available(c, now)]
        awake = [c for c in pool if not self.ledger.cools(c.node_id, now.mono_ms)]
        pool = _most_exact(awake or pool, want)  # if everyone is on cooldown, cooldowns are ignored
        if len(pool) < 2:
            return pool[0] if pool else None
        if (kept := self._kept(pool, want, holder, now)) is not None:
            return kept
        if self.rng.random() < self.explore_share:
            return self.rng.choice(pool)
        if all(c.est_ttft_ms is not None for c in pool):  # claimed for this node alone: no herd to scatter
            return min(pool, key=lambda c: self.score_ms(c, want, now))
        return self._better(*self.rng.sample(pool, 2), want=want, now=now)

    def _better(self, one: Candidate, other: Candidate, *, want: Want, now: Now) -> Candidate:
        """The one with the better score; of two alike with equal load, the one that was asked longer ago."""
        best, worst = sorted((one, other), key=lambda c: self.score_ms(c, want, now))
        alike = self.score_ms(worst, want, now) <= ALIKE * self.score_ms(best, want, now)
        if not alike or self._load(best) != self._load(worst):
            return best
        return min((best, worst), key=lambda c: self.ledger.peek(c.node_id).last_start)

    def _kept(self, pool: list[Candidate], want: Want, holder: NodeId | None, now: Now) -> Candidate | None:
        """The holder, unless it is much worse than the best."""
        kept = next((c for c in pool if c.node_id == holder), None)
        if kept is None:
            return None
        best_ms = min(self.score_ms(c, want, now) for c in pool)
        return kept if self.score_ms(kept, want, now) <= AFFINITY_FACTOR * best_ms else None

    def available(self, candidate: Candidate, now: Now) -> bool:
        """Neither held by its own retry_after nor out since a failure."""
        record = self.ledger.peek(candidate.node_id)
        return record.held_until_ms <= now.mono_ms and not is_out(record, candidate)

    def _load(self, candidate: Candidate) -> int:
        """Jobs that it has, as far as is known."""
        record, capacity = self.ledger.peek(candidate.node_id), candidate.capacity
        announced = capacity.current_load + capacity.queue_depth
        return record.in_flight + record.dialling + (announced if record.others is None else record.others)

    def score_ms(self, candidate: Candidate, want: Want, now: Now) -> float:
        """Estimated time to the whole answer. Own measurements first, announced values second."""
        record = self.ledger.peek(candidate.node_id)
        capacity = candidate.capacity
        announced_tokens_per_s = capacity.tokens_per_s or UNKNOWN_TOKENS_PER_S
        tokens_per_s = max(record.tokens_per_s or announced_tokens_per_s, SLOWEST_TOKENS_PER_S)
        slots = max(1, capacity.max_concurrent)
        load = self._load(candidate)
        # As if the engine did one thing at a time: right for a serial one, and for a batching one it prefers
        # the less loaded of two equals. With a milder factor old measurements outweigh the load, and all
        # run to the worker that was idle last.
        generate_ms = want.max_tokens / tokens_per_s * 1_000 * (1 + min(load, slots))
        waiting_rounds = max(0, load - slots + 1) / slots
        queue_ms = max(float(capacity.queue_ms), waiting_rounds * generate_ms)
        usual_ms = UNKNOWN_TTFT_MS if self.ledger.usual_ttft_ms is None else self.ledger.usual_ttft_ms
        ttft_ms = usual_ms if record.ttft_ms is None else record.ttft_ms
        if candidate.est_ttft_ms is not None:  # with its queue, and measured ones never lie
            queue_ms, ttft_ms = 0.0, max(float(candidate.est_ttft_ms), record.ttft_ms or 0.0)
        stale = now.mono_ms - candidate.received_mono_ms > self.timers.stale_ms
        return queue_ms + ttft_ms + generate_ms + (SATURATED_MS if stale else 0.0)


def _most_exact(pool: list[Candidate], want: Want) -> list[Candidate]:
    """Of an answer that has begun: those who can continue it best."""
    going_on = want.continuation
    if going_on is None or not pool:
        return pool
    best = max(going_on.promised(c.offer) for c in pool)
    return [c for c in pool if going_on.promised(c.offer) is best]


def is_out(record: Record, candidate: Candidate) -> bool:
    return record.out_since is not None and candidate.order <= record.out_since
