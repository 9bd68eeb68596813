"""`llama-gossip client`: one prompt, answered by whoever in the network serves the model."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from llama_gossip.cli import events
from llama_gossip.cli.options import COMMON, GENERATION, options
from llama_gossip.cli.session import Session

MODEL_HELP = "Ask for this model; without it any that is offered."


@click.command()
@click.argument("text", required=False, metavar="[PROMPT | -]")
@options((*COMMON, "prompt", *GENERATION), model=MODEL_HELP)
@click.pass_obj
def client(session: Session, /, text: str | None, **arguments: Any) -> int:
    """Ask the network.

    The prompt is the argument, --prompt, or stdin (-). The answer goes to stdout as it comes, everything else
    to stderr. Ctrl-C cancels the answer on the worker too.
    """
    config = session.begin(arguments)
    from llama_gossip.cli.prompts import prompt_from
    from llama_gossip.cli.signals import interruptible

    model = config.asked_model
    prompt = prompt_from(text, config.prompt, raw=config.raw, stdin_taken="-" in config.join)
    session.read_join()
    return asyncio.run(interruptible(_ask(session, prompt, model)))


async def _ask(session: Session, prompt: str, model: str | None) -> int:
    from llama_gossip.cli.asking import ask

    config = session.config
    async with session.node() as node:
        await node.join()
        session.output.event(
            events.Ready(
                node_id=node.node_id.hex(),
                name=node.name,
                role="client",
                ticket=node.ticket(),
                models=(),
                device="",
                reach=config.reach,
            )
        )
        await ask(node, config, session.output, prompt, model)
    return 0
