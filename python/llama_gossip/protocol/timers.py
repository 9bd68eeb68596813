"""Timers: every duration of the protocol in one place. Tests shorten them here and nowhere else.

PROTOCOL section 11 is the table; a field's comment gives the reason. Durations are milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_gossip.protocol.streams import Plane


@dataclass(frozen=True, slots=True)
class Timers:
    # --- an attempt, seen by the requester ---
    heartbeat_ms: int = 500  # a working worker is never silent for longer
    stall_ms: int = 2_000  # four missed heartbeats
    stall_max_ms: int = 8_000  # each stall of a request doubles its stall timer up to here
    accept_ms: int = 3_000  # plus the time to carry the prompt:
    accept_bytes_per_s: int = 65_536  # the slowest uplink that still counts as alive
    first_token_ms: int = 10_000  # or three times the worker's own estimate; renewed only by an advance
    no_advance_ms: int = 30_000  # or three times the estimate; for a place in a queue
    no_token_ms: int = 30_000  # between two tokens, whatever the heartbeat says
    estimate_factor: int = 3
    closing_ms: int = 2_000  # after the last frame: the other side's clean end, else the stream is reset
    # --- an attempt over gossip: the same, for messages that may be lost on a way of several hops ---
    gossip_heartbeat_ms: int = 2_000  # every message is everybody's load
    gossip_stall_ms: int = 12_000  # three repairs at their slowest
    gossip_accept_ms: int = 4_000  # 2 s, twice
    gossip_coalesce_ms: int = 200
    packet_gap_ms: int = 125  # of one attempt: 8 a second, below the 10 that a receiver takes
    rto_ms: int = 1_000  # times two for each repair in vain
    rto_max_ms: int = 4_000
    ack_gap_ms: int = 500  # at most two a second
    ack_every_ms: int = 4_000  # at least so often: three of them may be lost within a lease
    lease_ms: int = 15_000  # a worker computes so long for a requester that is not heard of
    linger_ms: int = 30_000  # frames are kept so long after the end
    unopened_gap_ms: int = 2_000  # between two announces for Packets that do not open
    gossip_fresh_ms: int = 20_000  # towards an Announce older than this nobody sends
    far_ms: int = 60_000  # a worker that could not be dialled is asked by gossip so long
    prekey_ms: int = 3_600_000
    prekey_kept_ms: int = 300_000  # the one before: longer than any Announce counts
    # --- choosing and dialling ---
    dial_ms: int = 4_000
    dial_next_ms: int = 500  # then the next candidate is dialled too
    assign_window_ms: int = 4_000  # accept_by, in the worker's clock
    cooldown_ms: int = 15_000  # times two for each further fault
    cooldown_max_ms: int = 300_000
    digest_cooldown_ms: int = 300_000  # an answer whose digest is wrong
    full_retry_ms: int = 1_000  # a worker that says "full" without saying for how long
    retry_least_ms: int = 200  # no worker can make us ask it more often than that
    join_grace_ms: int = 3_000  # a roster is trusted to be complete this long after joining
    nobody_latest_ms: int = 4_500  # "nobody serves it" is told within 5 s of the asking, joined or not
    # --- asking the topic ---
    offer_window_ms: int = 150  # after the first Claim: the idle answer within 100 ms of each other
    offer_latest_ms: int = 2_000  # a busy worker waits a second before it claims, and gossip has hops
    solicit_gap_ms: int = 500  # from a round to the next, doubled each time
    solicit_gap_max_ms: int = 4_000
    claim_ttl_ms: int = 15_000  # as long as an Announce is a worker's newest word
    affinity_ms: int = 1_200_000  # how long a conversation prefers its worker: 20 min
    out_patience_ms: int = 20_000  # a worker that lives announces anew within 18 s
    deadline_ms: int = 300_000  # default; plus 2 x max_tokens / announced tokens_per_s
    # --- a job, seen by the worker ---
    first_item_ms: int = 10_000  # a stream that brings no Assign is dropped
    coalesce_ms: int = 25
    tombstone_ms: int = 120_000  # an ended attempt is remembered: its fencing
    engine_stalled_ms: int = 30_000  # a model that has not stepped is not kept alive by its event loop
    unread_ms: int = 30_000  # a slot is kept so long for a requester that does not read
    ageing_ms: int = 10_000  # passed over for so long, a key's jobs rise by one priority class
    max_job_ms: int = 3_600_000  # wall time of one job, whatever its deadline says
    claim_delay_ms: int = 100  # of a worker with as many jobs as slots, before it answers a Request
    claim_delay_max_ms: int = 1_000
    claim_jitter_ms: int = 100
    # --- presence ---
    announce_ms: int = 15_000
    announce_spread: float = 0.2  # so that nodes started together do not announce together
    announce_ttl_ms: int = 45_000  # three announces
    client_announce_ms: int = 60_000
    client_ttl_ms: int = 180_000
    ttl_max_ms: int = 180_000  # an announced ttl is clamped to this
    change_gap_ms: int = 2_000  # between two announces of a changed load or state
    greet_gap_ms: int = 500  # between two announces for newcomers
    greet_jitter_ms: int = 200
    stale_ms: int = 20_000  # an Announce older than this counts as saturated: one was missed
    forget_ms: int = 120_000  # (boot, seq) of a peer that is gone: longer than any message lives
    mute_ms: int = 60_000  # the window of the mute verdict
    rebuild_ms: int = 60_000  # after a rebuild of the outbound gossip: the evidence is a minute old,
    rebuild_max_ms: int = 600_000  # so a rebuild needs as long to show; each one in vain doubles it

    def heartbeat_of(self, plane: Plane) -> int:
        return self.gossip_heartbeat_ms if plane is Plane.GOSSIP else self.heartbeat_ms

    def coalesce_of(self, plane: Plane) -> int:
        return self.gossip_coalesce_ms if plane is Plane.GOSSIP else self.coalesce_ms

    def stall_of(self, plane: Plane, stall_ms: int) -> int:
        """stall_ms: of the request, which grows with its stalls."""
        return max(stall_ms, self.gossip_stall_ms) if plane is Plane.GOSSIP else stall_ms

    def accept_timeout_ms(self, sent_bytes: int, plane: Plane = Plane.DIRECT) -> int:
        accept_ms = self.gossip_accept_ms if plane is Plane.GOSSIP else self.accept_ms
        return accept_ms + sent_bytes * 1_000 // self.accept_bytes_per_s

    def first_token_timeout_ms(self, est_ms: int) -> int:
        return max(self.first_token_ms, self.estimate_factor * est_ms)

    def no_advance_timeout_ms(self, est_ms: int) -> int:
        return max(self.no_advance_ms, self.estimate_factor * est_ms)


# Batching of tokens into one frame (the time bound is Timers.coalesce_ms).
COALESCE_TOKENS = 16  # above this the frame's overhead no longer matters
COALESCE_BYTES = 1_024
