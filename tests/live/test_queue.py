"""The queue between real nodes: keys take turns beside a flood, and nobody is computed for who was killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from llama_gossip import InferenceNode
from llama_gossip.directories import Directories
from tests.cli.cli_process import READY_S, Running, environment

pytestmark = pytest.mark.live

TOKENS = 2_000  # a hundred seconds of work each: what ends before was ended
FLOOD = 40  # questions of one key, in one slot
ASKING = Path(__file__).with_name("asking_process.py")


@contextmanager
def one_slot_worker(home: Path, model: str) -> Iterator[Running]:
    with Running(home, "worker", "--json", "--model", model, "--max-concurrent", "1") as worker:
        worker.event("ready")
        yield worker


@contextmanager
def asking(home: Path, questions: int, tokens: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(ASKING), str(questions), str(tokens)]
    with subprocess.Popen(command, env=environment(home)) as process:
        try:
            yield process
        finally:
            process.kill()


def requester_of(worker: Running, end: dict[str, Any]) -> str:
    return str(worker.event_so_far("request", request_id=end["request_id"])["requester"])


def test_the_jobs_of_a_killed_requester_are_given_up_and_their_slots_are_free(tmp_path: Path) -> None:
    """One runs and five wait. Counted from the worker's own lines; the next one is served at once."""
    with one_slot_worker(tmp_path, "scripted:delay_ms=50") as worker:
        with asking(tmp_path, 6, TOKENS) as requester:
            taken = [worker.event("request") for _ in range(6)]
            requester.send_signal(signal.SIGKILL)
            killed_ms = time.time() * 1_000
        ended = [worker.event("request_end") for _ in taken]
        assert {end["request_id"] for end in ended} == {request["request_id"] for request in taken}
        lasted_s = (max(end["ts_ms"] for end in ended) - killed_ms) / 1_000
        print(f"gone {lasted_s:.2f} s after the kill: {[(end['tokens'], end['reason']) for end in ended]}")
        assert sum(end["tokens"] > 0 for end in ended) == 1, "one of them ran"
        assert all(end["tokens"] < TOKENS for end in ended)
        with asking(tmp_path, 1, 5) as again:
            assert worker.event("request_end")["reason"] == "done"
            assert again.wait(READY_S) == 0


async def test_honest_keys_are_answered_in_turn_while_the_queue_of_a_flood_is_long(tmp_path: Path) -> None:
    dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path)})
    async with AsyncExitStack() as stack:
        worker = await asyncio.to_thread(
            stack.enter_context, one_slot_worker(tmp_path, "scripted:delay_ms=5")
        )
        honest = [await stack.enter_async_context(InferenceNode.open(dirs=dirs)) for _ in range(3)]
        await asyncio.gather(*(node.complete("Hello?", max_tokens=5) for node in honest))  # all are met
        stack.enter_context(asking(tmp_path, FLOOD, 60))
        theirs = {node.node_id.hex() for node in honest}
        asked = [await asyncio.to_thread(worker.event, "request") for _ in range(len(honest) + FLOOD)]
        assert sum(request["requester"] not in theirs for request in asked) == FLOOD
        read = len(worker.events())
        answers = await asyncio.gather(*(node.complete("Hello?", max_tokens=5) for node in honest))
        assert all(answer.verified for answer in answers)
        order: list[str] = []
        while not theirs <= set(order):
            await asyncio.to_thread(worker.event, "request_end")
            ends = [event for event in worker.events()[read:] if event["event"] == "request_end"]
            order = [requester_of(worker, end) for end in ends]
        print(f"{len(order) - 3} of the flood's {FLOOD} answers came before the last honest one")
        assert len(order) < FLOOD, "first come, first served would have answered the whole flood before"
