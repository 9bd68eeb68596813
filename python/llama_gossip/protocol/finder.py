"""Finder: who gets the next attempt of a request, or until when it waits, and what it means if nobody comes.

The law: waiting always has an end and a reason. Full workers are waited for until the deadline, broken ones
until they would have announced themselves anew, anybody at all until the topic was asked and the roster is
known to be complete. Who has failed gets a second chance only once the topic was asked for somebody better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import assert_never

from llama_gossip.protocol.affinity import Affinity, mark_secret
from llama_gossip.protocol.bids import add_bids
from llama_gossip.protocol.call import Bid
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.ledger import Ledger
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.nobody import Why, why_late, why_nobody, why_not_by_gossip, why_refused
from llama_gossip.protocol.request import Request
from llama_gossip.protocol.roster import Peer
from llama_gossip.protocol.selection import Candidate, Chooser, Survey, Unfit, is_out, survey
from llama_gossip.protocol.states import RequestState
from llama_gossip.protocol.streams import Delivery, Plane

# By its Announce: it had no room for all models, or has loaded one since.
_MAY_CLAIM = frozenset({Unfit.MODEL, Unfit.LOADING})


@dataclass(frozen=True, slots=True)
class Hold:
    """Nobody now. After `until_mono_ms`, if nothing has changed, `why` is told."""

    until_mono_ms: int
    why: Why


class Finder:
    def __init__(
        self,
        desk: Desk,
        *,
        peers: Callable[[], Iterable[tuple[NodeId, Peer]]],
        ledger: Ledger,
        explore_share: float,
        allowlist: frozenset[NodeId] | None,
        offers: Callable[[Request], Mapping[NodeId, Bid]],
    ) -> None:
        self._desk = desk
        self._offers = offers  # what was claimed for a request
        self._peers = peers  # the roster and the own worker
        self._ledger = ledger
        self._chooser = Chooser(ledger, desk.timers, desk.rng, explore_share)
        self._allowlist = allowlist
        self._joined_mono_ms: int | None = None
        self._affinity = Affinity(desk.timers, mark_secret(desk.signer, desk.net_id))

    def joined(self) -> None:
        if self._joined_mono_ms is None:
            self._joined_mono_ms = self._desk.now.mono_ms

    def find(self, request: Request) -> Candidate | Hold:
        found = self._survey(request)
        if request.public and not request.answered:  # the topic is asked first
            return Hold(self._patience_mono_ms(request), why_nobody(request, found))
        failed = self._failed(request, found)
        return (
            self._choose(request, found, failed)
            or self._by_gossip(request, found, failed)
            or self._second_chance(request, found)
            or self._hold(request, found)
        )

    def another(self, request: Request) -> Candidate | None:
        """One to dial beside those that are being dialled."""
        found = self._survey(request)
        return self._choose(request, found, self._failed(request, found)) or self._choose(request, found)

    def beside(self, request: Request) -> Candidate | None:
        """One to dial in advance, while the live attempt is silent."""
        found, live = self._survey(request), request.attempt
        busy = set() if live is None else {live.worker}
        return self._choose(request, found, self._failed(request, found) | busy)

    def answered(self, request: Request, worker: NodeId) -> None:
        """Its worker holds the conversation from now on."""
        self._affinity.keep(request.links, worker, self._desk.now.mono_ms)

    def mark(self, request: Request, worker: NodeId) -> bytes | None:
        """By which the worker may tell later that it holds the conversation. None: it is none, or public."""
        if not request.links or request.public:
            return None
        return self._affinity.mark(request.links[-1], worker)

    def newest(self, candidate: Candidate) -> tuple[int, int]:
        """(boot, seq) of its newest Announce: what it says after this is news."""
        orders = (peer.order for node_id, peer in self._peers() if node_id == candidate.node_id)
        return max(candidate.order, *orders, (0, 0))

    def _survey(self, request: Request) -> Survey:
        want, allowlist = request.want(), self._allowlist
        peers = dict(self._peers())
        found = survey(peers.items(), want, allowlist=allowlist, now=self._desk.now)
        add_bids(found, self._offers(request), peers, want, allowlist=allowlist)
        return found

    def _choose(
        self, request: Request, found: Survey, without: Set[NodeId] = frozenset()
    ) -> Candidate | None:
        """Among those that can be dialled."""

        def barred(worker: NodeId) -> bool:
            taken = worker in request.barred or worker in without or request.dialling(worker)
            return taken or not self._may_dial(request, worker)

        now = self._desk.now
        holder = self._affinity.worker(request.links, now.mono_ms)
        if holder is None:
            holder = self._affinity.marked(request.links, found.fit)
        return self._chooser.choose(found.fit, request.want(), barred=barred, now=now, holder=holder)

    # --- second chances ---

    def _failed(self, request: Request, found: Survey) -> set[NodeId]:
        """Those that have failed it once, or another by a fault of their own that still costs a cooldown."""
        now_ms = self._desk.now.mono_ms
        workers = (candidate.node_id for candidate in found.fit)
        return {w for w in workers if w in request.tired or self._ledger.cools(w, now_ms)}

    def _second_chance(self, request: Request, found: Survey) -> Candidate | None:
        """Anybody, when the topic has nobody better."""
        if not (self._was_asked(request) or self._nobody_else(found)):
            return None
        return self._choose(request, found) or self._by_gossip(request, found)

    def _was_asked(self, request: Request) -> bool:
        """Whether to wait longer for Claims would be in vain."""
        if request.submit.worker is not None:
            return True  # no other would do
        if request.asking_since_ms is None:
            return request.state is RequestState.SOLICITING  # too many questions: it cannot be asked
        return request.answered or self._patience_mono_ms(request) <= self._desk.now.mono_ms

    def _nobody_else(self, found: Survey) -> bool:
        """The roster is complete, and no other in it could claim what its Announce does not offer."""
        return self._knows_all() and not any(unfit in _MAY_CLAIM for _, unfit, _ in found.unfit)

    def _knows_all(self) -> bool:
        joined_ms = self._joined_mono_ms
        return joined_ms is not None and self._desk.now.mono_ms >= joined_ms + self._desk.timers.join_grace_ms

    # --- by gossip ---

    def may_go_by_gossip(self, request: Request, candidate: Candidate) -> bool:
        """Whether there is this way to it, as long as its Announces are fresh."""
        if request.delivery is Delivery.DIRECT or request.too_big:
            return False
        can_be_sealed = any(candidate.prekey) or request.public
        return can_be_sealed and candidate.node_id != self._desk.own_id

    def _may_dial(self, request: Request, worker: NodeId) -> bool:
        match request.delivery:
            case Delivery.DIRECT:
                return True
            case Delivery.GOSSIP:
                return False
            case Delivery.AUTO:
                return request.too_big or not self._ledger.is_far(worker, self._desk.now.mono_ms)
            case _:
                assert_never(request.delivery)

    def _by_gossip(
        self, request: Request, found: Survey, without: Set[NodeId] = frozenset()
    ) -> Candidate | None:
        """Among those that cannot be dialled, and only while nobody else is being dialled."""
        since_ms = self._desk.now.mono_ms - self._desk.timers.gossip_fresh_ms
        near = [
            c
            for c in found.fit
            if c.received_mono_ms > since_ms
            and self.may_go_by_gossip(request, c)
            and not self._may_dial(request, c.node_id)
        ]

        def barred(worker: NodeId) -> bool:
            return worker in request.barred or worker in without

        chosen = self._chooser.choose(near, request.want(), barred=barred, now=self._desk.now)
        return None if chosen is None else replace(chosen, plane=Plane.GOSSIP)

    # --- nobody now ---

    def _hold(self, request: Request, found: Survey) -> Hold:
        grace = self._patience_mono_ms(request)
        willing = [c for c in found.fit if c.node_id not in request.barred]
        if willing and request.delivery is Delivery.GOSSIP:
            willing = [c for c in willing if self.may_go_by_gossip(request, c)]
            if not willing:
                return Hold(grace, why_not_by_gossip(request))
        if not willing:
            return Hold(grace, self._why_none(request, found))
        now_ms = self._desk.now.mono_ms
        ends = [end for c in willing if (end := self._hold_end(request, c, grace)) > now_ms]
        return Hold(min(ends, default=grace), why_nobody(request, found))

    def why_late(self, request: Request) -> Why:
        """The deadline has passed. More time would not have helped what is too long for everybody."""
        found = self._survey(request)
        if request.idle and all(c.node_id in request.barred for c in found.fit):
            why = self._why_none(request, found)
            if why.code == "too_long":
                return why
        return why_late(request)

    def _why_none(self, request: Request, found: Survey) -> Why:
        return why_refused(request) if found.fit else why_nobody(request, found)

    def _hold_end(self, request: Request, candidate: Candidate, grace: int) -> int:
        record = self._ledger.peek(candidate.node_id)
        if not is_out(record, candidate):
            if self._may_dial(request, candidate.node_id):
                return record.held_until_ms
            if not self.may_go_by_gossip(request, candidate):
                return record.far_until_ms
            unheard_ms = candidate.received_mono_ms + self._desk.timers.announce_ttl_ms
            return max(record.held_until_ms, unheard_ms)  # its next Announce makes it fresh
        request.failed_before = True  # for another request perhaps, but it is why this one waits
        return max(grace, record.out_at_ms + self._desk.timers.out_patience_ms)

    def _patience_mono_ms(self, request: Request) -> int:
        """Until then somebody may still turn up: no round of Claims is over, or the roster is young."""
        timers, since = self._desk.timers, request.asking_since_ms
        latest = (self._desk.now.mono_ms if since is None else since) + timers.nobody_latest_ms
        if self._joined_mono_ms is None or since is None or not request.answered:
            return latest
        return min(latest, self._joined_mono_ms + timers.join_grace_ms)
