"""Bids: workers that have claimed a request, as candidates beside those of the roster.

The law: a worker's newest word counts. A Claim answers for a model that its Announce had no room for; nobody
becomes a candidate by a Claim who has said since that it is leaving.
"""

from __future__ import annotations

from collections.abc import Mapping

from llama_gossip.protocol.call import Bid
from llama_gossip.protocol.messages import Capacity, ModelOffer, NodeId
from llama_gossip.protocol.roster import Peer
from llama_gossip.protocol.selection import Candidate, Survey, Unfit, Want, offer_for


def add_bids(
    found: Survey,
    bids: Mapping[NodeId, Bid],
    peers: Mapping[NodeId, Peer],
    want: Want,
    *,
    allowlist: frozenset[NodeId] | None,
) -> None:
    """Completes a survey of the roster."""
    fit = {candidate.node_id for candidate in found.fit}
    unfit = {node_id: why for node_id, why, _ in found.unfit}
    for worker, bid in bids.items():
        if worker in fit or (allowlist is not None and worker not in allowlist):
            continue
        peer = peers.get(worker)
        if peer is not None and peer.order > bid.order and unfit.get(worker) is not Unfit.MODEL:
            continue
        if want.worker is not None and worker != want.worker:
            continue
        _add(found, worker, bid, peer, want)


def _add(found: Survey, worker: NodeId, bid: Bid, peer: Peer | None, want: Want) -> None:
    offer = offer_for((_offer(bid, want),), want)
    found.unfit = [entry for entry in found.unfit if entry[0] != worker]
    if isinstance(offer, ModelOffer):
        found.fit.append(_candidate(worker, bid, peer, offer))
    else:
        found.unfit.append((worker, *offer))


def _offer(bid: Bid, want: Want) -> ModelOffer:
    """A Claim tells no context: it says that the request fits. A Reject may say later that it does not."""
    claim = bid.claim
    return ModelOffer(
        want.model, claim.digest, want.least_tokens, "", claim.numerics_id, claim.numerics_class
    )


def _candidate(worker: NodeId, bid: Bid, peer: Peer | None, offer: ModelOffer) -> Candidate:
    claim = bid.claim
    # What is out since a failure stays out until its next Announce, if it announces itself at all.
    same_boot = peer is not None and peer.announce.head.boot == claim.head.boot
    return Candidate(
        node_id=worker,
        boot=claim.head.boot,
        order=peer.order if peer is not None and same_boot else bid.order,
        ts=claim.head.ts,
        received_mono_ms=bid.received_mono_ms,
        offer=offer,
        capacity=_capacity(bid, offer),
        prekey=claim.prekey,
        est_ttft_ms=claim.est_ttft_ms,
        conversations=peer.announce.conversations if peer is not None and same_boot else (),
    )


def _capacity(bid: Bid, offer: ModelOffer) -> Capacity:
    claim = bid.claim
    return Capacity(
        backend="",
        device="",
        models=(offer,),
        max_concurrent=0,  # not told
        current_load=0,
        queue_depth=claim.queue_position,
        queue_ms=claim.est_ttft_ms,
        tokens_per_s=claim.tokens_per_s,
        memory_free=0,
    )
