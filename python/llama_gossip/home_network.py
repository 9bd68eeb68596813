"""Home network: the one that a node is in, by its tickets, by an open name, or the user's own.

The law: all that is given must name the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_gossip.directories import Directories
from llama_gossip.errors import UsageError
from llama_gossip.identity import network_secret
from llama_gossip.protocol.network import open_secret
from llama_gossip.transport import Ticket, decode_ticket


@dataclass(frozen=True, slots=True)
class HomeNetwork:
    secret: bytes = field(repr=False)  # no log shows it
    name: str  # for display, "" for the user's own
    tickets: tuple[Ticket, ...] = ()


def home_network_of(join: str | Sequence[str], network: str | None, dirs: Directories) -> HomeNetwork:
    """Raises TicketError, UsageError, ConfigError."""
    tickets = tuple(decode_ticket(text) for text in ([join] if isinstance(join, str) else join))
    secrets = {ticket.secret for ticket in tickets}
    if network is not None:
        secrets.add(open_secret(network))
    if len(secrets) > 1:
        raise UsageError(
            "the tickets (or --network) belong to different networks",
            hint="a node is in one network: give tickets of one network only",
        )
    if secrets:
        name = network or next((t.network for t in tickets if t.network), "")
        return HomeNetwork(secrets.pop(), name, tickets)
    return HomeNetwork(network_secret(dirs), "")
