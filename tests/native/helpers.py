"""A blocking face of `_native.Node` for tests: await a condition with a deadline, never sleep blindly."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_gossip import _native as native

Event = tuple[Any, ...]
TOPIC = bytes(range(32))
DEADLINE_S = 60.0  # only a failure waits so long: other work may share two slow cores
DIAL_MS = 60_000
SILENCE_S = 10.0  # after it QUIC gives a silent peer up; what comes in half of it was told
TRIES = 3  # of a moment that load may spoil once, hardly three times in a row

NAMES = {value: name for name, value in vars(native).items() if name.startswith("EVENT_")}


class Peer:
    """A node and all events it has produced so far."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("secret_key", os.urandom(32))
        self.node = native.Node(**options)
        self.events: list[Event] = []
        self.auto_consume = True
        self.data: defaultdict[int, bytearray] = defaultdict(bytearray)

    @property
    def id(self) -> bytes:
        return self.node.node_id

    @property
    def contact(self) -> tuple[bytes, list[str]]:
        return self.id, self.node.addresses

    def pump(self, wait_s: float = 0.0, max_events: int = 256) -> int:
        """Takes what waits; returns how many events came."""
        fd = self.node.fileno()
        if fd >= 0 and wait_s > 0:
            select.select([fd], [], [], wait_s)
        new: list[Event] = self.node.drain(max_events)
        for event in new:
            if event[0] == native.EVENT_STREAM_DATA:
                self.data[event[1]].extend(event[2])
                if self.auto_consume:
                    self.node.consumed(event[1], len(event[2]))
        self.events += new
        return len(new)

    def until(self, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
        return until(condition, self, deadline_s=deadline_s)

    def of(self, kind: int) -> list[Event]:
        return [event for event in self.events if event[0] == kind]

    def event(self, kind: int, *rest: Any, deadline_s: float = DEADLINE_S) -> Event:
        """The first event of this kind that begins with `rest`, awaited."""

        def match() -> Event | None:
            wanted = (kind, *rest)
            return next((event for event in self.events if event[: len(wanted)] == wanted), None)

        return self.until(match, deadline_s)  # type: ignore[no-any-return]

    def done(self, op: int, deadline_s: float = DEADLINE_S) -> Any:
        """The result of an operation; raises when it failed."""

        def match() -> Event | None:
            ends = (native.EVENT_OP_OK, native.EVENT_OP_FAILED)
            return next((event for event in self.events if event[0] in ends and event[1] == op), None)

        event = self.until(match, deadline_s)
        if event[0] == native.EVENT_OP_FAILED:
            raise OpFailed(event[2], event[3])
        return event[2]

    def bind(self) -> Peer:
        self.done(0)
        return self

    def join(self, bootstrap: list[tuple[bytes, list[str]]] | None = None, topic: bytes = TOPIC) -> Peer:
        self.done(self.node.join(topic, bootstrap or []))
        return self

    def gossip(self) -> list[bytes]:
        return [event[2] for event in self.of(native.EVENT_GOSSIP)]

    def close(self) -> None:
        self.done(self.node.close())
        self.event(native.EVENT_CLOSED)

    def named(self) -> list[Event]:
        return [(NAMES[event[0]], *event[1:]) for event in self.events]


class OpFailed(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def until(condition: Callable[[], Any], *peers: Peer, deadline_s: float = DEADLINE_S) -> Any:
    """Pumps all peers until the condition is true; its value. A failure shows what came instead."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        left = end - time.monotonic()
        if left <= 0:
            seen = "\n".join(f"{peer.id.hex()[:8]}: {peer.named()[-12:]}" for peer in peers)
            raise AssertionError(f"not within {deadline_s} s; the last events were\n{seen}")
        fds = [peer.node.fileno() for peer in peers]
        select.select([fd for fd in fds if fd >= 0], [], [], min(left, 0.05))
        for peer in peers:
            peer.pump()


def told_in_time(news_s: Callable[[], float]) -> None:
    """`news_s` says how long its news took: at least once clearly less than silence would have taken."""
    took_s: list[float] = []
    for _ in range(TRIES):
        took_s.append(news_s())
        if took_s[-1] < SILENCE_S / 2:
            return
    raise AssertionError(f"never told, only noticed: it took {took_s} s")


def full_mesh(*peers: Peer, deadline_s: float = DEADLINE_S) -> None:
    """Awaits that everybody is everybody's neighbour."""
    until(
        lambda: all(len(peer.node.neighbors()) == len(peers) - 1 for peer in peers),
        *peers,
        deadline_s=deadline_s,
    )


def rss_kib(pid: int | str = "self") -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def fd_count() -> int:
    return len(os.listdir("/proc/self/fd"))


PRELUDE = """
import os, sys, time
sys.path.insert(0, {tests!r})
from helpers import Peer, until, native, TOPIC

def say(*words):
    print(*words, flush=True)
"""


class Script:
    """A child process that speaks lines on stdout and obeys lines on stdin."""

    def __init__(self, code: str, *arguments: str) -> None:
        prelude = PRELUDE.format(tests=str(Path(__file__).parent))
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-c", prelude + textwrap.dedent(code), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def line(self, deadline_s: float = DEADLINE_S) -> str:
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], deadline_s)[0]:
            raise AssertionError(f"the child said nothing within {deadline_s} s")
        line = self.process.stdout.readline().strip()
        if not line:
            assert self.process.stderr
            raise AssertionError(f"the child ended: {self.process.stderr.read()}")
        return line

    def end(self, deadline_s: float = DEADLINE_S) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=deadline_s)
        return self.process.returncode, out, err

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextmanager
def script(code: str, *arguments: str) -> Iterator[Script]:
    child = Script(code, *arguments)
    try:
        yield child
    finally:
        child.kill()
