"""What HTTP costs: a worker asked through the gateway, against the same worker asked by a node, and against a
plain uvicorn SSE server around the same engine with no network in between.

Scripted engines, every process on this host, pairs interleaved. (a) first token; (b) tokens/s of 16 streams;
(c) 200 streams at once on the paced engine: errors, fairness, the gateway's memory; (d) a client that goes,
until the worker says that its job has ended.

    benches/gateway.py [--quick] [--json]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from llama_gossip import InferenceNode
from reporting import Bars, Figures, main
from sse import Connection, Streamed, chat_body
from workers import Worker, start_worker, until_ready

PROMPT = "Write a long story about a fox who learns to read."
STREAMS = 16
CROWD = 200

BARS: Bars = {
    "gateway_over_node_first_token_ms_p50": ("<=", 2.0),
    "gateway_share_of_node_tokens_per_s_16": (">=", 0.97),
    "crowd_errors": ("<=", 0),
    "crowd_slowest_to_mean": (">=", 0.9),
    "crowd_fastest_to_mean": ("<=", 1.1),
    "crowd_gateway_growth_mib": ("<=", 50.0),
    "client_gone_stream_ms_p95": ("<=", 200.0),
    "client_gone_whole_ms_p95": ("<=", 200.0),
}


@dataclass(frozen=True)
class Plan:
    first_tokens: int = 200
    rounds: int = 7
    tokens: int = 100
    crowd_tokens: int = 100
    goings: int = 40


QUICK = Plan(first_tokens=60, rounds=3, tokens=60, crowd_tokens=50, goings=15)


@dataclass
class Stage:
    """Processes: a worker, a gateway, the direct server of the same engine. `node` is this process's."""

    model: str
    worker: Worker
    gateway: Worker
    direct: Worker
    node: InferenceNode

    async def by_node(self, tokens: int) -> Streamed:
        told = Streamed(time.perf_counter())
        generation = self.node.generate(PROMPT, max_tokens=tokens, temperature=0, ignore_eos=True)
        async for _ in generation:
            told.token_s.append(time.perf_counter())
        return told


class Staging:
    """`async with Staging(spec) as stage`."""

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._stack = ExitStack()

    async def __aenter__(self) -> Stage:
        try:
            worker = self._begun(start_worker(self._spec, LLAMA_GOSSIP_MAX_CONCURRENT="256"))
            program = [sys.executable, "-m", "llama_gossip", "gateway", "--json", "--port", "0"]
            gateway = self._begun(Worker(program, {}))
            script = str(Path(__file__).with_name("direct_sse.py"))
            direct = self._begun(Worker([sys.executable, script, self._spec], {}))
            self._node = await InferenceNode.spawn()
            await self._node.join()
            await until_ready(self._node, [worker.node_id])
        except BaseException:
            self._stack.close()
            raise
        return Stage(worker.ready["models"][0], worker, gateway, direct, self._node)

    def _begun(self, worker: Worker) -> Worker:
        self._stack.callback(worker.stop)
        return worker

    async def __aexit__(self, *_: object) -> None:
        await self._node.shutdown()
        await asyncio.to_thread(self._stack.close)


# --- (a) first token -----------------------------------------------------------------------------


async def first_token(plan: Plan) -> Figures:
    async with Staging("scripted") as stage:
        body = chat_body(stage.model, PROMPT, 2)
        async with (
            Connection(stage.gateway.ready["url"]) as gateway,
            Connection(stage.direct.ready["url"]) as direct,
        ):
            ways: dict[str, Callable[[], Awaitable[Streamed]]] = {
                "node": lambda: stage.by_node(2),
                "gateway": lambda: gateway.stream(body),
                "direct_server": lambda: direct.stream(body),
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(plan.first_tokens + 5):
                for way, ask in ways.items():
                    told = (await ask()).first_token_ms
                    if number >= 5:  # the first ones warm the connections
                        times[way].append(told)
    p50 = {way: statistics.median(told) for way, told in times.items()}
    return {
        **{f"{way}_first_token_ms_p50": told for way, told in p50.items()},
        "gateway_over_node_first_token_ms_p50": p50["gateway"] - p50["node"],
        "gateway_over_direct_server_first_token_ms_p50": p50["gateway"] - p50["direct_server"],
        "gateway_first_token_ms_p95": sorted(times["gateway"])[int(0.95 * plan.first_tokens)],
    }


# --- (b) tokens/s --------------------------------------------------------------------------------


async def together(ask: Callable[[int], Awaitable[Streamed]], count: int) -> tuple[float, list[Streamed]]:
    """Tokens/s of all of them together, from the first token to the last."""
    told = await asyncio.gather(*(ask(number) for number in range(count)))
    at_s = sorted(moment for one in told for moment in one.token_s)
    return (len(at_s) - 1) / (at_s[-1] - at_s[0]), list(told)


async def token_rate(plan: Plan, spec: str, name: str) -> Figures:
    async with Staging(spec) as stage:
        body = chat_body(stage.model, PROMPT, plan.tokens)

        def over(url: str) -> Callable[[int], Awaitable[Streamed]]:
            async def ask(_: int) -> Streamed:
                async with Connection(url) as connection:
                    return await connection.stream(body)

            return ask

        async def by_node(_: int) -> Streamed:
            return await stage.by_node(plan.tokens)

        ways = {
            "node": by_node,
            "gateway": over(stage.gateway.ready["url"]),
            "direct": over(stage.direct.ready["url"]),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(plan.rounds):
            for way, ask in ways.items():
                rates[way].append((await together(ask, STREAMS))[0])
    shares = [mine / node for mine, node in zip(rates["gateway"], rates["node"], strict=True)]
    return {
        **{f"{way}_{name}": statistics.median(told) for way, told in rates.items()},
        f"gateway_share_of_node_{name}": statistics.median(shares),
    }


# --- (c) a crowd ---------------------------------------------------------------------------------


def memory_mib(worker: Worker) -> float:
    status = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


async def crowd(plan: Plan) -> Figures:
    """The paced engine gives one token to one request in turn: all streams have the same to expect. They are
    compared while all of them run, between the last one's first token and the first one's last."""
    async with Staging("paced:2") as stage:
        body = chat_body(stage.model, PROMPT, plan.crowd_tokens)

        async def ask(_: int) -> Streamed:
            async with Connection(stage.gateway.ready["url"]) as connection:
                return await connection.stream(body)

        await ask(0)
        before = memory_mib(stage.gateway)
        rate, told = await together(ask, CROWD)
        after = memory_mib(stage.gateway)
    whole = [one for one in told if not one.error and len(one.token_s) == plan.crowd_tokens]
    for cut in (one for one in told if one not in whole):
        print(f"a stream of the crowd ended after {len(cut.token_s)} tokens: {cut.error}", file=sys.stderr)
    began_s = max(one.token_s[0] for one in whole)
    together_s = [one.token_s for one in whole if one.token_s[-1] > began_s]
    ended_s = min(at_s[-1] for at_s in together_s)
    shares = [sum(began_s < moment <= ended_s for moment in at_s) for at_s in together_s]
    return {
        "crowd_errors": len(told) - len(whole),
        "crowd_ended_before_all_had_begun": len(whole) - len(together_s),  # the first has the engine alone
        "crowd_tokens_per_s": rate,
        "crowd_slowest_to_mean": min(shares) / statistics.mean(shares),
        "crowd_fastest_to_mean": max(shares) / statistics.mean(shares),
        "crowd_gateway_growth_mib": after - before,
        "crowd_gateway_mib": after,
    }


# --- (d) a client that goes ----------------------------------------------------------------------


async def goings(plan: Plan) -> Figures:
    async with Staging("scripted:delay_ms=20") as stage:
        streamed = [await going(stage, stream=True) for _ in range(plan.goings)]
        whole = [await going(stage, stream=False) for _ in range(plan.goings)]
    return {**spread("client_gone_stream_ms", streamed), **spread("client_gone_whole_ms", whole)}


async def going(stage: Stage, *, stream: bool) -> float:
    """Milliseconds from the close of the connection to the worker's word that its job has ended."""
    async with Connection(stage.gateway.ready["url"]) as connection:
        connection.ask(chat_body(stage.model, PROMPT, 10_000, stream=stream))
        if stream:
            await connection.first_line()
        await asyncio.to_thread(stage.worker.read, "request")
        await asyncio.sleep(0.1)  # in mid-answer
        gone_ms = time.time() * 1000
        connection.close()
        ended = await asyncio.to_thread(stage.worker.read, "request_end")
    return float(ended["ts_ms"]) - gone_ms


def spread(name: str, told: Sequence[float]) -> Figures:
    ordered = sorted(told)
    return {f"{name}_p50": statistics.median(ordered), f"{name}_p95": ordered[int(0.95 * len(ordered))]}


async def measure(plan: Plan) -> Figures:
    figures = await first_token(plan)
    figures |= await token_rate(plan, "scripted:delay_ms=20", "tokens_per_s_16")
    figures |= await token_rate(plan, "scripted", "tokens_per_s_16_unpaced")
    figures |= await crowd(plan)
    return figures | await goings(plan)


if __name__ == "__main__":
    sys.exit(main(__doc__, BARS, measure, Plan(), QUICK))
