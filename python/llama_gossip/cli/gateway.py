"""`llama-gossip gateway`: OpenAI's API and the dashboard on a local port, answered by the network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from llama_gossip import news
from llama_gossip.cli.options import COMMON, HTTP, options
from llama_gossip.cli.output import short
from llama_gossip.cli.session import Session
from llama_gossip.config import DEFAULTS
from llama_gossip.plain_text import one_line

if TYPE_CHECKING:
    from llama_gossip.cli.http import Http, HttpPlan
    from llama_gossip.cli.signals import Signals
    from llama_gossip.node import InferenceNode

PATIENCE_S = 3.0  # after it a roster counts as complete, and what is ready is told even so


@click.command()
@options((*COMMON, *HTTP))
@click.pass_obj
def gateway(session: Session, /, **arguments: Any) -> int:
    """Serve OpenAI's API and a dashboard on a local port.

    Programs ask it as they ask OpenAI, and the network answers. On another address than loopback it asks for
    a key, out of --api-key-file or the variable LLAMA_GOSSIP_API_KEY. The first INT or TERM lets running
    answers end (10 s at most), the second ends the process at once.
    """
    config = session.begin(arguments, news=sys.stdout)
    from llama_gossip.cli.http import http_plan

    plan = http_plan(config, port=config.port)
    session.read_join()
    return asyncio.run(_run(session, plan))


async def _run(session: Session, plan: HttpPlan) -> int:
    from llama_gossip.cli.http import serving_http
    from llama_gossip.cli.staying import stay

    async def work(node: InferenceNode, signals: Signals) -> str:
        async with serving_http(plan, node) as http:
            return await _until_stopped(session, node, http, signals)

    return await stay(session, None, work)


async def _until_stopped(session: Session, node: InferenceNode, http: Http, signals: Signals) -> str:
    from llama_gossip.cli.staying import DRAIN_S

    await node.join()
    await signals.until_stopped(_first_worker(node))
    if not signals.stopped.is_set():
        _say_ready(session, node, http)
    await signals.stopped.wait()
    session.output.say(f"{signals.reason}: finishing what runs (again to stop at once)")
    if not await http.drain(DRAIN_S):
        session.output.say("some answers could not be finished in time")
    await http.close()
    await node.shutdown(signals.reason)
    return signals.reason


async def _first_worker(node: InferenceNode) -> None:
    """Until somebody is ready to serve, PATIENCE_S at most."""
    found = asyncio.Event()

    def listen(event: news.NodeEvent) -> None:
        if isinstance(event, news.PeerUp) and event.state == "ready":
            found.set()

    remove = node.add_listener(listen)
    try:
        if not _models(node):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(found.wait(), PATIENCE_S)
    finally:
        remove()


def _models(node: InferenceNode) -> list[str]:
    """What can be asked for now."""
    return sorted({model for peer in node.peers() if peer.state == "ready" for model in peer.models})


# --- words -------------------------------------------------------------------------------------


def _say_ready(session: Session, node: InferenceNode, http: Http) -> None:
    from llama_gossip.cli.http import tell_http
    from llama_gossip.cli.staying import ready_event

    output, models = session.output, _models(node)
    output.event(
        ready_event(node, role="gateway", models=models, device="", reach=session.config.reach, url=http.url)
    )
    output.say(f"gateway {node.name} is ready ({short(node.node_id.hex())})", style="green")
    tell_http(output, http)
    if models:
        output.say(f"  models  {', '.join(map(one_line, models))}")
    else:
        output.say("  models  none yet; serve one: llama-gossip worker")
    output.say(f"  next    {_curl(http, models[0] if models else 'smollm2-135m')}")


def _curl(http: Http, model: str) -> str:
    """A command that asks for something at once."""
    message = {"role": "user", "content": "Hello"}
    asked = {"model": one_line(model), "messages": [message], "max_tokens": DEFAULTS["max_tokens"]}
    body = json.dumps(asked, ensure_ascii=False)
    key = ' -H "authorization: Bearer $KEY"' if http.plan.keys else ""
    return (
        f"curl {http.url}/v1/chat/completions -H 'content-type: application/json'{key} -d {shlex.quote(body)}"
    )
