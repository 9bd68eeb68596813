"""Serving, as `worker` and `hybrid` do it. The law: a model that is not there is told before anything begins;
then claim and join at once (the others see a worker that loads), load, say ready, serve until told to stop,
drain, leave."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from llama_gossip.cli import events
from llama_gossip.cli.http import Http, http_plan, serving_http, tell_http
from llama_gossip.cli.output import memory, short
from llama_gossip.cli.progress import progress_bars
from llama_gossip.cli.session import Session
from llama_gossip.cli.signals import Signals, in_own_thread
from llama_gossip.cli.staying import DRAIN_S, ready_event, stay
from llama_gossip.plain_text import one_line

if TYPE_CHECKING:
    from llama_gossip.engine.base import Engine, EngineInfo
    from llama_gossip.node import InferenceNode

DEFAULT_MODEL = "smollm2-135m"

Beside = Callable[["InferenceNode", "Engine"], Awaitable[None]]


async def serve(session: Session, role: str, *, port: int | None = None, beside: Beside | None = None) -> int:
    """Serves until INT or TERM; several models all or not at all. port: of OpenAI's API. `beside` runs
    meanwhile, with the first model's engine (what `hybrid` asks), and is cancelled at the end."""
    from llama_gossip.engine import check_specs

    check_specs(models_of(session), device=session.config.device, dtype=session.config.dtype)
    plan = http_plan(session.config, port=port, metrics_port=session.config.metrics_port)

    async def work(node: InferenceNode, signals: Signals) -> str:
        async with serving_http(plan, node) as http:
            return await _serve_until_stopped(session, role, node, http, signals, beside)

    return await stay(session, role, work)


async def _serve_until_stopped(
    session: Session,
    role: str,
    node: InferenceNode,
    http: Http,
    signals: Signals,
    beside: Beside | None,
) -> str:
    models = " and ".join(map(one_line, models_of(session)))
    session.output.say(f"loading {models}; clients are served once this says ready")
    node.announce_loading()
    await node.join()
    engines = await signals.until_stopped(load(session))
    if engines is None:
        await node.shutdown(signals.reason)
        session.output.event(events.Shutdown(signals.reason))
        session.output.flush()
        os._exit(0)  # the loading thread cannot be stopped, and dies badly with the interpreter
    node.set_engine(engines)
    say_ready(session, role, node, engines, http)
    if beside is not None:
        await signals.until_stopped(_as_coroutine(beside(node, engines[0])))
    await signals.stopped.wait()
    session.output.say(f"{signals.reason}: finishing what runs (again to stop at once)")
    ended = await asyncio.gather(node.drain(DRAIN_S, signals.reason), http.drain(DRAIN_S))
    if not all(ended):
        session.output.say("some answers could not be finished in time")
    await http.close()
    await node.shutdown(signals.reason)
    return signals.reason


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work


def models_of(session: Session) -> tuple[str, ...]:
    return session.config.model or (DEFAULT_MODEL,)


async def load(session: Session) -> tuple[Engine, ...]:
    """The engines that the options name, loaded in a thread. Raises ModelUnavailable, EngineError."""
    config = session.config

    def work() -> tuple[Engine, ...]:
        from llama_gossip.engine import load_engines

        shown = session.output.mode != "quiet"
        with progress_bars(shown=shown, color=session.output.color) as progress:
            return load_engines(
                models_of(session),
                device=config.device,
                dtype=config.dtype,
                numerics=config.numerics,
                max_concurrent=config.max_concurrent,
                progress=progress,
                process=config.engine_process,
            )

    return await in_own_thread(work)


# --- words -------------------------------------------------------------------------------------


def say_ready(
    session: Session, role: str, node: InferenceNode, engines: Sequence[Engine], http: Http
) -> None:
    """The ready line, what serves, and the next command."""
    infos, output, config = [engine.info for engine in engines], session.output, session.config
    ticket = node.ticket()
    device = " + ".join(dict.fromkeys(info.device for info in infos))
    for info in infos:
        for note in info.notes:
            output.warn(note if len(infos) == 1 else f"{info.model}: {note}")
    output.event(
        ready_event(
            node, role=role, models=[i.model for i in infos], device=device, reach=config.reach, url=http.url
        )
    )
    output.say(f"{role} {node.name} is ready ({short(node.node_id.hex())})", style="green")
    for info in infos:
        output.say(f"  model   {_about(info)}")
    backends = " + ".join(dict.fromkeys(info.backend for info in infos))
    at_once = min(info.max_concurrent for info in infos)
    output.say(f"  device  {device} ({backends}), {at_once} at once")
    tell_http(output, http)
    output.say(f'  next    llama-gossip client --join {shlex.quote(ticket)} "Hello"')
    if not (config.join or config.network):
        output.say('  here    llama-gossip client "Hello"  (same host and user: no ticket needed)')
    output.say("  the ticket lets whoever holds it into your network: give it to people you trust")


def _about(info: EngineInfo) -> str:
    """One model, for people."""
    speed = f"about {info.tokens_per_s:.0f} tok/s" if info.tokens_per_s else "speed not measured yet"
    size = memory(info.memory_bytes) if info.memory_bytes else "no weights"
    return f"{one_line(info.model)}, {info.dtype}, {size}, {speed}"
