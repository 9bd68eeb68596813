"""What the pure core costs: one request of 50 tokens through a requester's and a worker's machines,
signatures excluded (they are free here; the bytes that they cover are still built).

Two cores in one process hand each other their bytes; every event, encoding, check and timer is the real one.
The thread's own CPU time is taken over many requests, the least of several rounds is told, because another
process can only add to it. The little loop that carries the bytes is counted with it.

    coalesced  the model makes a token each 2 ms, so they travel about a dozen a frame
    singles    a token each 30 ms: 50 frames

    benches/core_cpu.py [--rounds N] [--against DIR] [--json]

--against: the package folder (`…/python`) of another state of the source. Rounds of the two alternate, and
the ratios of this one to that one are told, from one run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.messages import (
    Capacity,
    ChatPrompt,
    FinishReason,
    GenerationConfig,
    ModelOffer,
    NodeId,
    NumericsClass,
    PromptFacts,
    RequestId,
)
from reporting import table

TOKENS = 50
REQUESTS = 60  # of one round
WALL_MS = 1_800_000_000_000
TEXTS = tuple(f" word{n}" for n in range(TOKENS))
TEXT_DIGEST = blake2b("".join(TEXTS).encode(), digest_size=32).digest()
DIGEST = bytes(32)
GAPS_MS = {"coalesced": 2, "singles": 30}
BARS = {"coalesced_ms": ("<=", 2.0)}
PROMPT = ChatPrompt((("user", "Write a long story about a fox who learns to read."),))


class FreeSigner:
    """Signs at no cost; nobody checks."""

    def __init__(self, name: str) -> None:
        self.node_id = NodeId(blake2b(name.encode(), digest_size=32).digest())

    def sign(self, message: bytes) -> bytes:
        return bytes(64)


class Pair:
    """A requester and a worker, and the time of both."""

    def __init__(self) -> None:
        self.mono_ms = 1_000
        self.finished = 0
        self.jobs: deque[int] = deque()
        self.client, self.worker = self._core("client"), self._core("worker")
        self._ids = {
            id(self.client): FreeSigner("client").node_id,
            id(self.worker): FreeSigner("worker").node_id,
        }
        self._waiting: deque[tuple[Core, ev.Event]] = deque()
        self._wakes: dict[int, int | None] = {}
        self._streams = 0
        offer = ModelOffer("tiny", DIGEST, 4_096, "none", "bench-1", NumericsClass.EXACT)
        capacity = Capacity("bench", "cpu", (offer,), 8, 0, 0, 0, 100.0, 1 << 30)
        self.feed(self.worker, ev.EngineChanged(capacity))
        self.feed(self.client, ev.Joined(()))
        self.feed(self.worker, ev.Joined(()))

    @staticmethod
    def _core(name: str) -> Core:
        return Core(
            signer=FreeSigner(name),
            net_id=DIGEST,
            boot=WALL_MS,
            node_name=name,
            rng=random.Random(1),
            verify=lambda *_: True,
        )

    def feed(self, core: Core, event: ev.Event) -> None:
        """The event and all that follows from it at once."""
        self._waiting.append((core, event))
        while self._waiting:
            core, event = self._waiting.popleft()
            for effect in core.handle(event, ev.Now(self.mono_ms, WALL_MS + self.mono_ms)):
                self._perform(core, effect)

    def _perform(self, core: Core, effect: ef.Effect) -> None:
        other = self.worker if core is self.client else self.client
        tell: Callable[[tuple[Core, ev.Event]], None] = self._waiting.append
        match effect:
            case ef.WriteStream(stream, data):
                tell((other, ev.StreamData(stream, data)))
            case ef.Wake(at_ms):
                self._wakes[id(core)] = at_ms
            case ef.OpenStream(dial):
                self._streams += 1
                tell((other, ev.StreamAccepted(self._streams, self._ids[id(core)])))
                tell((core, ev.StreamOpened(dial, self._streams)))
            case ef.FinishStream(stream):
                tell((other, ev.StreamFinished(stream)))
            case ef.ResetStream(stream, code):
                tell((other, ev.StreamReset(stream, code)))
            case ef.Broadcast(data):
                tell((other, ev.GossipReceived(self._ids[id(core)], data)))
            case ef.StartJob(job):
                self.jobs.append(job)
            case ef.Finished():
                self.finished += 1
            case ef.Failed():
                raise RuntimeError(f"a request of the bench has failed: {effect}")
            case _:
                pass  # for logs

    def wait(self, span_ms: int) -> None:
        """Each timer in its own moment."""
        end_ms = self.mono_ms + span_ms
        while True:
            due = [(at, core) for core in (self.client, self.worker) if (at := self._wakes.get(id(core)))]
            at, core = min(due, key=lambda entry: entry[0], default=(end_ms + 1, self.client))
            if at > end_ms:
                self.mono_ms = end_ms
                return
            self.mono_ms = max(self.mono_ms, at)
            self._wakes[id(core)] = None
            self.feed(core, ev.Tick())

    def request(self, number: int, gap_ms: int) -> None:
        config = GenerationConfig(max_tokens=TOKENS, seed=1)
        request_id = RequestId(number.to_bytes(16, "big"))
        self.feed(self.client, ev.Submit(request_id, "tiny", PROMPT, config, "2026-11-24"))
        job = self.jobs.popleft()
        facts = PromptFacts(12, DIGEST, DIGEST, "bench-1", NumericsClass.EXACT)
        self.feed(self.worker, ev.EngineStarted(job, facts))
        for index, text in enumerate(TEXTS):
            self.wait(gap_ms)
            self.feed(self.worker, ev.EngineTokens(job, index, (index,), (text,)))
        done = ev.EngineDone(job, FinishReason.LENGTH, TOKENS, 12, TEXT_DIGEST, DIGEST)
        self.feed(self.worker, done)
        self.client.take_transcript(request_id)


def one_round(gap_ms: int) -> float:
    """CPU milliseconds of one request, the mean of a round."""
    pair = Pair()
    pair.request(0, gap_ms)  # the first one meets cold caches
    began_ns = time.thread_time_ns()
    for number in range(1, REQUESTS + 1):
        pair.request(number, gap_ms)
    spent_ms = (time.thread_time_ns() - began_ns) / 1e6
    if pair.finished != REQUESTS + 1:
        raise RuntimeError(f"{pair.finished} of {REQUESTS + 1} requests were finished")
    return spent_ms / REQUESTS


def measure_here() -> dict[str, float]:
    return {f"{name}_ms": one_round(gap_ms) for name, gap_ms in GAPS_MS.items()}


def measure_in(package: str) -> dict[str, float]:
    """One round in a process of its own, over the package in that folder."""
    done = subprocess.run(
        [sys.executable, __file__, "--one-round"],
        env={**os.environ, "PYTHONPATH": package},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def least(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: min(one[name] for one in rounds) for name in rounds[0]}


def measure(rounds: int, against: str | None) -> dict[str, float]:
    here = str(Path(sys.modules["llama_gossip"].__path__[0]).parent)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(measure_in(here))
        if against is not None:
            theirs.append(measure_in(against))
    figures = least(ours)
    if against is not None:
        before = least(theirs)
        figures |= {f"before_{name}": value for name, value in before.items()}
        figures |= {f"ratio_{name.removesuffix('_ms')}": figures[name] / before[name] for name in before}
    return figures


def main() -> int:
    """Prints a table, with --json one object on stdout. A missed bar is reported, not an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", metavar="DIR", help="package folder of another state of the source")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the table on stderr")
    parser.add_argument("--one-round", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_round:
        print(json.dumps(measure_here()))
        return 0
    figures = measure(options.rounds, options.against)
    print(table(figures, BARS), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
