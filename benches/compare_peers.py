"""Compares the live peers of a network: each asked in turn, then all at once, through InferenceNode.

    benches/compare_peers.py [--join TICKET] [--requests 5] [--tokens 64] [--json FILE] [--plot FILE.png]

Prints a table of tokens/s, first-token and inter-token latency (p50, p95) a peer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llama_gossip import InferenceNode, LlamaGossipError, Peer

PROMPT = "Tell a story about a lighthouse keeper."
SETTLE_S = 3.0  # an Announce answers a newcomer within 200 ms; loaded hosts take longer
IN_TURN, AT_ONCE = "in turn", "all at once"


@dataclass(frozen=True)
class Sample:
    """One answer. Milliseconds from the submission."""

    peer: str
    phase: str
    first_token_ms: float
    inter_token_ms: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        total = sum(self.inter_token_ms)
        return 1000 * len(self.inter_token_ms) / total if total else 0.0


@dataclass(frozen=True)
class Row:
    """One line of the table: a peer in one phase."""

    peer: str
    name: str
    phase: str
    answers: int
    failures: int
    tokens_per_s: float  # of one answer, median
    total_tokens_per_s: float  # of all answers together
    first_token_ms_p50: float
    first_token_ms_p95: float
    inter_token_ms_p50: float
    inter_token_ms_p95: float


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def sample(node: InferenceNode, peer: Peer, phase: str, tokens: int) -> Sample | None:
    """None when the peer gave no answer: counted as a failure."""
    submitted_s = time.perf_counter()
    try:
        generation = node.generate(
            PROMPT,
            model=peer.models[0],
            max_tokens=tokens,
            temperature=0,
            ignore_eos=True,
            worker=peer.node_id,
        )
        at_s = [time.perf_counter() async for _ in generation]
    except LlamaGossipError as error:
        print(f"{peer.name}: {error}", file=sys.stderr)
        return None
    gaps = tuple((late - early) * 1000 for early, late in itertools.pairwise(at_s))
    return Sample(peer.node_id, phase, (at_s[0] - submitted_s) * 1000, gaps)


def row_of(peer: Peer, phase: str, samples: list[Sample | None], seconds: float) -> Row:
    answers = [found for found in samples if found is not None]
    gaps = [gap for answer in answers for gap in answer.inter_token_ms]
    firsts = [answer.first_token_ms for answer in answers]
    tokens = sum(len(answer.inter_token_ms) + 1 for answer in answers)
    return Row(
        peer=peer.node_id,
        name=peer.name,
        phase=phase,
        answers=len(answers),
        failures=len(samples) - len(answers),
        tokens_per_s=percentile([answer.tokens_per_s for answer in answers], 0.5),
        total_tokens_per_s=tokens / seconds if seconds else 0.0,
        first_token_ms_p50=percentile(firsts, 0.5),
        first_token_ms_p95=percentile(firsts, 0.95),
        inter_token_ms_p50=percentile(gaps, 0.5),
        inter_token_ms_p95=percentile(gaps, 0.95),
    )


async def compare(join: list[str], requests: int, tokens: int) -> list[Row]:
    rows = []
    async with InferenceNode.open(join=join) as node:
        await asyncio.sleep(SETTLE_S)
        workers = [peer for peer in node.peers() if peer.state == "ready" and peer.models]
        for peer in workers:
            print(f"asking {peer.name} {requests} times …", file=sys.stderr)
            start_s = time.perf_counter()
            taken = [await sample(node, peer, IN_TURN, tokens) for _ in range(requests)]
            rows.append(row_of(peer, IN_TURN, taken, time.perf_counter() - start_s))

        async def several(peer: Peer) -> Row:
            start_s = time.perf_counter()
            taken = await asyncio.gather(*(sample(node, peer, AT_ONCE, tokens) for _ in range(requests)))
            return row_of(peer, AT_ONCE, list(taken), time.perf_counter() - start_s)

        print("asking all at once …", file=sys.stderr)
        rows += await asyncio.gather(*(several(peer) for peer in workers))
    return rows


def show(rows: list[Row]) -> None:
    table = Table(title="Peers compared")
    for title in (
        "peer",
        "phase",
        "answers",
        "failed",
        "tok/s",
        "all tok/s",
        "first token p50/p95 ms",
        "inter-token p50/p95 ms",
    ):
        table.add_column(title, justify="left" if title in ("peer", "phase") else "right")
    for row in rows:
        table.add_row(
            f"{row.name} {row.peer[:8]}",
            row.phase,
            str(row.answers),
            str(row.failures),
            f"{row.tokens_per_s:.1f}",
            f"{row.total_tokens_per_s:.1f}",
            f"{row.first_token_ms_p50:.0f} / {row.first_token_ms_p95:.0f}",
            f"{row.inter_token_ms_p50:.1f} / {row.inter_token_ms_p95:.1f}",
        )
    Console().print(table)


def plot(rows: list[Row], file: Path) -> None:
    """Two bar charts side by side: throughput and first-token latency, a peer and a phase."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row.peer for row in rows))
    labels = {row.peer: f"{row.name}\n{row.peer[:8]}" for row in rows}
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for panel, field, title in zip(
        panels,
        ("total_tokens_per_s", "first_token_ms_p50"),
        ("tokens/s, all answers together", "first token p50, ms"),
        strict=True,
    ):
        for offset, phase in enumerate((IN_TURN, AT_ONCE)):
            heights = {row.peer: getattr(row, field) for row in rows if row.phase == phase}
            places = [at + 0.4 * offset for at in range(len(names))]
            panel.bar(places, [heights.get(name, 0.0) for name in names], width=0.38, label=phase)
        panel.set_xticks([at + 0.2 for at in range(len(names))], [labels[name] for name in names])
        panel.set_title(title)
        panel.legend()
    figure.savefig(file, dpi=120)


def main() -> int:
    """Exit code 4 when no peer serves anything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--join", action="append", default=[], help="ticket of the network (default: your own)"
    )
    parser.add_argument("--requests", type=int, default=5, help="answers a peer and phase")
    parser.add_argument("--tokens", type=int, default=64, help="tokens an answer")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--plot", type=Path, help="write a plot to this PNG file")
    options = parser.parse_args()
    try:
        rows = asyncio.run(compare(options.join, options.requests, options.tokens))
    except LlamaGossipError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if not rows:
        print("No peer serves a model; start one: llama-gossip worker", file=sys.stderr)
        return 4
    show(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    if options.plot:
        plot(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
