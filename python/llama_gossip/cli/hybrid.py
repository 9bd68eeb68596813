"""`llama-gossip hybrid`: a worker that also asks, one prompt a line of stdin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from llama_gossip.cli.events import Failure
from llama_gossip.cli.options import COMMON, GENERATION, SERVING, options
from llama_gossip.cli.session import Session
from llama_gossip.cli.worker import MODEL_HELP
from llama_gossip.errors import Cancelled, LlamaGossipError, UsageError

if TYPE_CHECKING:
    from llama_gossip.engine.base import Engine
    from llama_gossip.node import InferenceNode

OPTIONS = tuple(dict.fromkeys((*COMMON, *SERVING, "http", *GENERATION)))


@click.command()
@options(OPTIONS, model=MODEL_HELP)
@click.pass_obj
def hybrid(session: Session, /, **arguments: Any) -> int:
    """Serve models, and answer each line of stdin by the network.

    Of several models the first is the one that the lines are asked of.
    Answers go to stdout, everything else to stderr. When stdin ends it goes on serving. Answers wait for the
    reader of stdout; events of --json are left out when it is too slow, and `dropped` says how many.
    With --http it is a gateway too; address and keys stand in config.toml or the environment (see gateway).
    """
    if "-" in session.begin(arguments).join:
        raise UsageError("stdin cannot give both a ticket and the prompts", hint="use --join @file")
    session.read_join()
    from llama_gossip.cli.serving import serve

    async def beside(node: InferenceNode, engine: Engine) -> None:
        await answer_lines(session, node, engine.info.model)

    return asyncio.run(serve(session, "hybrid", port=session.config.http, beside=beside))


async def answer_lines(session: Session, node: InferenceNode, model: str) -> None:
    """One prompt after the other. A failed one is told, and the next is asked; the last may be cut short."""
    from llama_gossip.cli.asking import ask
    from llama_gossip.cli.prompts import line_prompt, stdin_lines

    output = session.output
    async for line in stdin_lines():
        try:
            if prompt := line_prompt(line):
                await ask(node, session.config, output, prompt, model)
        except LlamaGossipError as error:
            await output.room()
            output.failure(failure_of(error))
        except asyncio.CancelledError:  # told to stop: programs must not wait for the end of this answer
            output.event(failure_of(Cancelled("this node was stopped before the answer was whole")))
            raise
    output.say("the input has ended; serving goes on until Ctrl-C")


def failure_of(error: LlamaGossipError) -> Failure:
    return Failure(error.code, error.message, error.hint, error.exit_code)
