"""Status: the state of a node and of the network around it, as one JSON object.

The law: a peer's field has the name it has in `Peer` and in `peers --json`; what peers said of themselves is
cleaned, so that no page and no terminal is steered by it. The ticket is in it only where it may be.
"""

from __future__ import annotations

import time
from dataclasses import asdict, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llama_gossip.gateway.journal import Journal
from llama_gossip.gateway.throughput import Throughput
from llama_gossip.peers import Peer
from llama_gossip.plain_text import one_line
from llama_gossip.protocol.timers import Timers
from llama_gossip.version import __version__

if TYPE_CHECKING:
    from llama_gossip.node import InferenceNode

# A worker announces at least this often; one that has not is shown as silent before it is dropped.
WORKER_SILENT_S = Timers().stale_ms / 1000
CLIENT_SILENT_S = Timers().client_announce_ms / 1000 * 1.25

Object = dict[str, Any]

PEER_FIELDS = tuple(field.name for field in fields(Peer))
_clean = lru_cache(maxsize=16_384)(one_line)  # a thousand peers say the same every second


class Status:
    """Listens to its node from its making to `close`."""

    def __init__(self, node: InferenceNode, *, tells_ticket: bool) -> None:
        """tells_ticket False: `whole` has null in its place."""
        self._node = node
        self._tells_ticket = tells_ticket
        self._began_s = time.monotonic()
        self.journal = Journal(node.node_id.hex(), one_line(node.name))
        for peer in node.peers():  # they came before anybody listened
            self.journal.know(peer.node_id, peer.name)
        self._received, self._made = Throughput(), Throughput()
        self._unlisten = node.add_listener(self.journal.hear)

    def close(self) -> None:
        self._unlisten()

    def sample(self) -> None:
        """A look at the counters; the rates are of the time between two of them."""
        stats, now_s = self._node.stats(), time.monotonic()
        self._received.look(now_s, stats.get("tokens_received", 0))
        self._made.look(now_s, stats.get("tokens_made", 0))

    def whole(self) -> Object:
        """What /api/status answers: `live` and the ticket."""
        ticket = self._node.ticket() if self._tells_ticket else None
        return {**self.live(), "ticket": ticket}

    def live(self) -> Object:
        """All that changes by itself; peers by name, requests and log oldest first."""
        peers = [peer_row(peer) for peer in self._node.peers()]
        peers.sort(key=lambda peer: (not peer["models"], peer["name"], peer["node_id"]))
        own = self._own()
        return {
            "version": __version__,
            "node": own,
            "network": self._network(peers, own),
            "peers": peers,
            "requests": [asdict(row) for row in self.journal.asked.values()],
            "served": [asdict(row) for row in self.journal.served.values()],
            "log": [asdict(line) for line in self.journal.lines],
        }

    def _own(self) -> Object:
        engines, stats = self._node.engines(), self._node.stats()
        return {
            "node_id": self._node.node_id.hex(),
            "name": one_line(self._node.name),
            "role": "hybrid" if engines else "client",
            "models": [one_line(info.model) for info, _ in engines],
            "device": " + ".join(dict.fromkeys(one_line(info.device) for info, _ in engines)),
            "running": stats.get("running", 0),
            "queue_depth": stats.get("queue_depth", 0),
            "max_concurrent": min((info.max_concurrent for info, _ in engines), default=0),
            "addresses": list(self._node.addresses),
            "uptime_s": round(time.monotonic() - self._began_s, 1),
        }

    def _network(self, peers: list[Object], own: Object) -> Object:
        ready = [peer for peer in peers if peer["state"] == "ready" and not peer["silent"]]
        workers = [*ready, own] if own["models"] else ready
        return {
            "peers": len(peers),
            "ready_workers": len(workers),
            "models": sorted({model for worker in workers for model in worker["models"]}),
            "running": sum(worker["running"] for worker in workers),
            "max_concurrent": sum(worker["max_concurrent"] for worker in workers),
            "queue_depth": sum(worker["queue_depth"] for worker in workers),
            "requests": self.journal.asked_total,
            "under_way": self.journal.under_way,
            "failovers": self.journal.failovers,
            "tokens_per_s": self._received.now,
            "made_tokens_per_s": self._made.now,
            "throughput": list(self._received.history),
            "made_throughput": list(self._made.history),
        }


def peer_row(peer: Peer) -> Object:
    """`Peer` as JSON, cleaned. silent: an Announce of it is overdue, it may be dead."""
    row: Object = {name: getattr(peer, name) for name in PEER_FIELDS}
    for name in ("name", "role", "device", "version"):
        row[name] = _clean(row[name])
    row["models"] = [_clean(model) for model in peer.models]
    row["addresses"] = [_clean(address) for address in peer.addresses]
    row["last_seen_s"] = round(peer.last_seen_s, 1)
    row["tokens_per_s"] = round(peer.tokens_per_s, 1)
    row["rtt_ms"] = None if peer.rtt_ms is None else round(peer.rtt_ms, 1)
    row["silent"] = peer.last_seen_s > (CLIENT_SILENT_S if peer.state == "client" else WORKER_SILENT_S)
    return row
