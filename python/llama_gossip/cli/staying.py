"""Staying: what commands have in common that run until they are told to stop. The law: the node's news are
told as they come, `shutdown` is the last event, and a reader that has gone is a reason to leave in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from llama_gossip import news
from llama_gossip.cli import events
from llama_gossip.cli.output import Output, short
from llama_gossip.cli.session import Session
from llama_gossip.cli.signals import SERVE_GRACE_S, UNREAD, Signals
from llama_gossip.plain_text import one_line

if TYPE_CHECKING:
    from llama_gossip.node import InferenceNode

DRAIN_S = 10.0  # what a running answer is given to end

Work: TypeAlias = Callable[["InferenceNode", Signals], Awaitable[str]]


async def stay(session: Session, role: str | None, work: Work) -> int:
    """Runs `work` with a node of this role (None: as what it does) that is bound and not yet joined. Its
    result, the reason of the end, is told last."""
    output = session.output
    reason = "error"
    with Signals(grace_s=SERVE_GRACE_S) as signals, output.unhurried(signals.unread):
        try:
            async with session.node(role) as node:
                node.add_listener(_listener(output, signals))
                reason = await work(node, signals)
        finally:
            output.event(events.Shutdown(reason))  # the last event: nothing of the node speaks after it
        output.say(f"{node.name} has left")
    return 0


def _listener(output: Output, signals: Signals) -> Callable[[news.NodeEvent], None]:
    """Tells the news. When nobody reads them any more (a closed pipe) the node leaves in an orderly way."""

    def listen(event: news.NodeEvent) -> None:
        try:
            tell(output, event)
        except BrokenPipeError:
            signals.stop(UNREAD)

    return listen


def tell(output: Output, event: news.NodeEvent) -> None:
    """A node's news as an event and a line."""
    match event:
        case news.PeerUp():
            models = ", ".join(map(one_line, event.models)) or event.role or "client"
            output.event(events.PeerUp(event.node_id, event.name, event.models))
            output.say(f"+ {one_line(event.name)} {short(event.node_id)}  {models}")
        case news.PeerDown():
            output.event(events.PeerDown(event.node_id, event.reason))
            output.say(f"- {short(event.node_id)}  {one_line(event.reason)}")
        case news.RequestAccepted():
            output.event(events.Request(event.request_id, event.requester, event.model))
            output.say(f"> {short(event.request_id)} from {short(event.requester)}  {one_line(event.model)}")
        case news.RequestEnded():
            output.event(events.RequestEnd(event.request_id, event.tokens, event.reason))
            output.say(f"< {short(event.request_id)}  {event.tokens} tokens, {one_line(event.reason)}")
        case news.RequestAsked() | news.RequestTaken() | news.RequestFailedOver() | news.RequestAnswered():
            pass  # this node's own requests: whoever asks tells of them
        case _:
            assert_never(event)


def ready_event(
    node: InferenceNode, *, role: str, models: Sequence[str], device: str, reach: str, url: str = ""
) -> events.Ready:
    """url "": it serves no HTTP."""
    common: dict[str, Any] = {
        "node_id": node.node_id.hex(),
        "name": node.name,
        "role": role,
        "ticket": node.ticket(),
        "models": tuple(models),
        "device": device,
        "reach": reach,
    }
    return events.ReadyAt(**common, url=url) if url else events.Ready(**common)
