"""`llama-gossip worker`: serves models to the network until it is told to stop."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from llama_gossip.cli.options import COMMON, SERVING, options
from llama_gossip.cli.session import Session

MODEL_HELP = "Model to serve: a name, a folder or a .gguf file; once for each. Without it: smollm2-135m."


@click.command()
@options((*COMMON, *SERVING), model=MODEL_HELP)
@click.pass_obj
def worker(session: Session, /, **arguments: Any) -> int:
    """Serve one model or several to the network.

    Without options it serves smollm2-135m to the other nodes of this user on this host. The first INT or TERM
    lets running answers end (10 s at most), the second ends the process at once. A reader of its output that
    is too slow costs lines, never service: in their place stands how many they were (`dropped` with --json).
    """
    session.begin(arguments, news=sys.stdout)
    session.read_join()
    from llama_gossip.cli.serving import serve

    return asyncio.run(serve(session, "worker"))
