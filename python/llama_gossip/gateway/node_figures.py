"""Node figures: what a node counts and measures anyway, read when it is asked for.

The law: looking costs the node nothing between two looks, and every figure is the one that `stats`, `engines`
and `peers` tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from llama_gossip.gateway import families
from llama_gossip.gateway.families import PREFIX, Labels, label_of
from llama_gossip.protocol.attempt import How
from llama_gossip.protocol.messages import RejectReason
from llama_gossip.protocol.receive import DropReason
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.version import __version__

if TYPE_CHECKING:
    from llama_gossip.node import InferenceNode

# By their names in `stats`: name and help.
COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    "requests": ("requests_asked", "Requests that this node's user has asked."),
    "attempts": ("attempts", "Workers that were asked to answer a request: one a request without trouble."),
    "tokens_received": ("tokens_received", "Tokens that came in for this node's user."),
    "tokens_made": ("tokens_made", "Tokens that this node's engines made for others and for itself."),
    "jobs": ("jobs_accepted", "Requests that this node's worker took."),
    "jobs_parked": ("job_parkings", "Times that a job was left out because its requester did not read."),
    "gossip_sent": ("gossip_messages_sent", "Messages that this node said to the topic."),
    "gossip_received": ("gossip_messages_received", "Messages that the topic brought, the dropped ones too."),
    "gossip_accepted": ("gossip_messages_accepted", "Messages of the topic that were new, fresh and signed."),
    "gossip_bytes_sent": ("gossip_sent_bytes", "Bytes of the messages sent."),
    "gossip_bytes_received": ("gossip_received_bytes", "Bytes of the messages received."),
    "rate_limited": ("gossip_messages_held_back", "Own messages that were over this node's own rate."),
    "gossip_rebuilds": ("gossip_rebuilds", "Times that this node, unheard by all, joined the topic anew."),
    "rejoins": ("gossip_rejoins", "Times that the topic was joined again after it was lost."),
    "redials": ("redials", "Peers that were dialled again after their connection was lost."),
    "dials_failed": ("dials_failed", "Workers that could not be reached."),
    "connections_refused": ("connections_refused", "Connections of strangers that were refused."),
    "stream_bytes_sent": ("stream_sent_bytes", "Bytes written to streams with peers."),
    "stream_bytes_received": ("stream_received_bytes", "Bytes read from streams with peers."),
}
GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "neighbors": ("gossip_neighbors", "Peers with which this node exchanges the topic's messages directly."),
    "connections": ("connections", "Live connections to peers."),
    "streams_open": ("streams", "Open streams with peers."),
    "queue_depth": ("queued_jobs", "Jobs that wait for a slot of this worker."),
    "parked": ("parked_jobs", "Jobs that are left out because their requesters do not read."),
    "queue_bytes": ("inbound_queue_bytes", "Bytes of the network that wait to be handled."),
}
IN_MS: Final[Mapping[str, tuple[str, str]]] = {
    "queue_ms": ("queue_estimate_seconds", "What a new job would wait for a slot, as announced."),
    "clock_skew_ms": ("clock_skew_seconds", "The others' clocks minus this one's, median."),
}
# Of each the prefix in `stats`: name, help, label, the label's values that exist from the start.
SORTED: Final[Mapping[str, tuple[str, str, str, tuple[str, ...]]]] = {
    "dropped_": (
        "gossip_messages_dropped",
        "Messages of the topic that were not taken. lag: too many waited to be handled.",
        "reason",
        (*(reason.value for reason in DropReason), "lag"),
    ),
    "assigns_rejected_": (
        "rejects",
        "Requests that this node's worker did not take.",
        "reason",
        tuple(reason.name.lower() for reason in RejectReason),
    ),
    "attempts_": (
        "attempts_failed",
        "Attempts that ended without success.",
        "how",
        tuple(how.name.lower() for how in How),
    ),
    "failovers_": (
        "failovers",
        "Answers that another worker took up. resume: how exactly it could continue.",
        "resume",
        tuple(held.word for held in ResumeClass),
    ),
    "jobs_": ("jobs_ended", "Jobs of this node's worker that have ended.", "ending", ("done", "cancelled")),
}
ROLES: Final = ("worker", "client", "hybrid", "gateway")
OTHER: Final = "other"
NOBODY: Final[Mapping[Labels, float]] = {
    ("ready", "worker"): 0.0,
    ("ready", "hybrid"): 0.0,
    ("client", "client"): 0.0,
}


class NodeFigures(Collector):
    def __init__(self, node: InferenceNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        node = self._node
        about = {"node_id": node.node_id.hex(), "name": label_of(node.name), "version": __version__}
        yield InfoMetricFamily(f"{PREFIX}node", "This node.", value=about)
        yield from self._of_stats(node.stats())
        yield from self._measured()
        yield self._peers()

    def _of_stats(self, stats: Mapping[str, int]) -> Iterator[Metric]:
        for key, (name, about) in COUNTERS.items():
            yield families.counter(name, about, stats.get(key, 0))
        for key, (name, about) in GAUGES.items():
            yield families.gauge(name, about, stats.get(key, 0))
        for key, (name, about) in IN_MS.items():
            yield families.gauge(name, about, stats.get(key, 0) / 1000)
        told = {**stats, "dropped_lag": stats.get("gossip_lagged", 0)}
        for prefix, (name, about, label, known) in SORTED.items():
            values = families.named(known)
            for key, count in told.items():
                if key.startswith(prefix) and key not in COUNTERS:
                    values[(key.removeprefix(prefix),)] = count
            yield families.counters(name, about, (label,), values)

    def _measured(self) -> Iterator[Metric]:
        meters = self._node.meters
        yield families.histogram(
            "inter_token_seconds",
            "Between the tokens of this node's answers, failovers included.",
            meters.received_gaps_s,
        )
        yield families.histogram(
            "worker_inter_token_seconds",
            "Between the tokens that this node's engines made of one answer.",
            meters.made_gaps_s,
        )
        yield families.histogram(
            "queue_wait_seconds",
            "From the acceptance of a job to the engine's beginning with it.",
            meters.queue_wait_s,
        )
        yield families.histogram("signature_verify_seconds", "The check of one signature.", meters.verify_s)

    def _peers(self) -> Metric:
        """Roles are what peers say of themselves."""
        seen: dict[Labels, float] = dict(NOBODY)
        for peer in self._node.peers():
            kind = (peer.state, peer.role if peer.role in ROLES else OTHER)
            seen[kind] = seen.get(kind, 0) + 1
        return families.gauges(
            "peers", "Peers in the network, this node not counted.", ("state", "role"), seen
        )
