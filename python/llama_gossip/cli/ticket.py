"""`llama-gossip ticket`: one line that lets its holder into the network."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from llama_gossip.cli.events import TicketRow
from llama_gossip.cli.options import COMMON, options
from llama_gossip.cli.session import Session
from llama_gossip.errors import NoWorkers

if TYPE_CHECKING:
    from llama_gossip.node import InferenceNode
    from llama_gossip.transport import Ticket


@click.command()
@options(COMMON)
@click.pass_obj
def ticket(session: Session, /, **arguments: Any) -> int:
    """Print a ticket of the network.

    It names the peers that run now. Whoever holds it can join: give it to people you trust.
    """
    session.begin(arguments)
    session.read_join()
    from llama_gossip.cli.signals import interruptible

    return asyncio.run(interruptible(_print(session)))


async def _print(session: Session) -> int:
    from llama_gossip.cli.looking import look_around
    from llama_gossip.transport import encode_ticket

    async with session.node() as node:
        await look_around(node)
        made = without_self(node)
    if not made.peers:
        raise NoWorkers("no running node to name in a ticket", hint="start one: llama-gossip worker")
    line = encode_ticket(made)
    session.output.event(TicketRow(line, made.network, tuple(peer.hex() for peer, _ in made.peers)))
    session.output.row(line)
    session.output.say("the ticket lets whoever holds it into your network: give it to people you trust")
    return 0


def without_self(node: InferenceNode) -> Ticket:
    """The node's ticket, without the node: it is gone when somebody reads the ticket."""
    from dataclasses import replace

    from llama_gossip.transport import decode_ticket

    made = decode_ticket(node.ticket())
    return replace(made, peers=tuple(peer for peer in made.peers if peer[0] != node.node_id))
