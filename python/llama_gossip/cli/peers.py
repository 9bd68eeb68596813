"""`llama-gossip peers`: who is in the network and what they serve."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from llama_gossip.cli.events import PeerRow
from llama_gossip.cli.options import COMMON, options
from llama_gossip.cli.output import short, table
from llama_gossip.cli.session import Session

if TYPE_CHECKING:
    from llama_gossip.peers import Peer

HEAD = ("NAME", "ID", "ROLE", "STATE", "MODELS", "DEVICE", "TOK/S", "BUSY", "RTT", "PATH", "SEEN", "VERSION")


@click.command()
@options(COMMON)
@click.pass_obj
def peers(session: Session, /, **arguments: Any) -> int:
    """Show the peers of the network, one a line.

    Joins for up to 3 seconds to hear them.
    """
    session.begin(arguments)
    session.read_join()
    from llama_gossip.cli.signals import interruptible

    return asyncio.run(interruptible(_show(session)))


async def _show(session: Session) -> int:
    from llama_gossip.cli.looking import look_around

    output = session.output
    async with session.node() as node:
        found = await look_around(node)
    for peer in found:
        output.event(row_of(peer))
    if found:
        for line in table(HEAD, [_cells(peer) for peer in found]):
            output.row(line)
    else:
        output.say("no peer was heard; start one: llama-gossip worker")
    return 0


def row_of(peer: Peer) -> PeerRow:
    return PeerRow(
        node_id=peer.node_id,
        name=peer.name,
        role=peer.role,
        state=peer.state,
        models=peer.models,
        device=peer.device,
        tokens_per_s=peer.tokens_per_s,
        queue_depth=peer.queue_depth,
        running=peer.running,
        max_concurrent=peer.max_concurrent,
        last_seen_s=peer.last_seen_s,
        addresses=peer.addresses,
        version=peer.version,
        path=peer.path,
        rtt_ms=peer.rtt_ms,
    )


def _cells(peer: Peer) -> tuple[str, ...]:
    return (
        peer.name,
        short(peer.node_id),
        peer.role,
        peer.state,
        ",".join(peer.models) or "-",
        peer.device or "-",
        f"{peer.tokens_per_s:.1f}" if peer.tokens_per_s else "-",
        f"{peer.running}/{peer.max_concurrent}+{peer.queue_depth}" if peer.max_concurrent else "-",
        f"{peer.rtt_ms:.1f}ms" if peer.rtt_ms is not None else "-",
        peer.path or "-",
        f"{peer.last_seen_s:.0f}s",
        peer.version,
    )
