"""Claimer: what this node answers when somebody asks the topic who could serve it (PROTOCOL section 5).

The law: only what would be accepted now is claimed, the idle answer first, and whoever hears three better
Claims keeps silent: a question costs the topic a handful of answers, not one a worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_gossip.protocol.admission import Policy, is_friend
from llama_gossip.protocol.agenda import TimerKey
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import Broadcast
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.jobs import Jobs
from llama_gossip.protocol.messages import Claim, Kind, ModelOffer, NodeId, NodeState, Request, RequestId
from llama_gossip.protocol.presence import Presence
from llama_gossip.protocol.ratelimit import SIGNER_RATES, Buckets

MAX_PENDING = 256  # Claims that wait for their moment: a second of the busiest network
MAX_SEEN = 64  # Claims of others that are remembered of one request: as many as its requester takes
BETTER_CLAIMS = 3  # of three that are faster the requester needs no fourth


@dataclass(slots=True)
class Pending:
    number: int
    request: Request
    seen: dict[NodeId, int] = field(default_factory=dict)  # who has claimed it, and with which est_ttft_ms


class Claimer:
    def __init__(
        self,
        desk: Desk,
        *,
        jobs: Jobs,
        presence: Presence,
        policy: Policy,
        allowlist: frozenset[NodeId] | None,
    ) -> None:
        self._desk = desk
        self._jobs = jobs
        self._presence = presence
        self._policy = policy
        self._allowlist = allowlist
        self._pending: dict[tuple[NodeId, RequestId], Pending] = {}
        self._by_number: dict[int, Pending] = {}
        self._made = 0
        self._budget: Buckets[Kind] = Buckets(1)

    def __len__(self) -> int:
        return len(self._pending)

    def asked(self, request: Request) -> None:
        """Somebody asks the topic."""
        key = (request.requester, request.request_id)
        if key in self._pending or self._offer(request) is None:
            return
        if len(self._pending) >= MAX_PENDING:
            self._desk.count("claims_crowded_out")
            return
        self._made += 1
        self._pending[key] = self._by_number[self._made] = Pending(self._made, request)
        self._desk.after(_key(self._made), self._delay_ms())

    def overheard(self, sender: NodeId, claim: Claim) -> None:
        """Another worker's Claim for the same request."""
        pending = self._pending.get((claim.requester, claim.request_id))
        if pending is not None and (sender in pending.seen or len(pending.seen) < MAX_SEEN):
            pending.seen[sender] = claim.est_ttft_ms

    def timer(self, number: int) -> None:
        """The moment has come; what could be served then may have become impossible."""
        desk, pending = self._desk, self._by_number[number]
        del self._by_number[number]
        del self._pending[pending.request.requester, pending.request.request_id]
        offer = self._offer(pending.request)
        if offer is None:
            return
        own_ms = self._est_ttft_ms()
        if sum(est_ttft_ms < own_ms for est_ttft_ms in pending.seen.values()) >= BETTER_CLAIMS:
            desk.count("claims_held_back")
            return
        if not self._budget.take(Kind.CLAIM, SIGNER_RATES[Kind.CLAIM], desk.now.mono_ms):
            desk.count("claims_over_rate")
            return
        claim = self._claim(pending.request, offer)
        desk.emit(Broadcast(sign_envelope(claim, desk.signer, desk.net_id)))
        desk.count("claims_sent")

    # --- what it says ---

    def _offer(self, request: Request) -> ModelOffer | None:
        """The model that would serve it now; None: this node could not."""
        jobs, policy = self._jobs, self._policy
        capacity = jobs.offer.capacity
        if self._presence.state() is not NodeState.READY or capacity is None:
            return None
        friend = is_friend(request.requester, self._desk.own_id, self._allowlist)
        if request.max_tokens > policy.max_tokens:
            return None
        if jobs.is_stalled() or not jobs.queue.admits(request.requester, policy.caps_for(friend)):
            return None
        offer = next((m for m in capacity.models if request.model in ("", m.name)), None)
        least_prompt = request.prompt_tokens // 2 + 1  # it was rounded up to a power of two
        if offer is None or least_prompt + request.max_tokens > offer.context:
            return None
        return offer

    def _claim(self, request: Request, offer: ModelOffer) -> Claim:
        own = self._presence.own_peer().announce
        queue = self._jobs.queue
        return Claim(
            head=self._desk.head(),
            requester=request.requester,
            request_id=request.request_id,
            worker=self._desk.own_id,
            queue_position=0 if queue.running < queue.slots else queue.queued + 1,
            est_ttft_ms=self._est_ttft_ms(),
            tokens_per_s=own.capacity.tokens_per_s,
            digest=offer.digest,
            numerics_id=offer.numerics_id,
            numerics_class=offer.numerics_class,
            prekey=own.prekey,
            addresses=own.addresses,
        )

    def _est_ttft_ms(self) -> int:
        return self._jobs.queue_ms() + self._jobs.pace.first_token_ms

    def _delay_ms(self) -> int:
        """The busier, the later: the idle are heard first."""
        timers, queue = self._desk.timers, self._jobs.queue
        load = (queue.running + queue.queued) / max(1, queue.slots)
        own_ms = min(timers.claim_delay_max_ms, round(load * timers.claim_delay_ms))
        return own_ms + self._desk.rng.randint(0, timers.claim_jitter_ms)


def _key(number: int) -> TimerKey:
    return ("claim", number, "send")
