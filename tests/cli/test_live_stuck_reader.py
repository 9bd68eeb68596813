"""A serving process whose output is not read: the pipe is full, and clients notice nothing."""

from __future__ import annotations

import asyncio
import fcntl
import json
import signal
import subprocess
from pathlib import Path
from typing import IO, Any

import pytest

from llama_gossip import InferenceNode
from llama_gossip.cli.outlet import MAX_WAITING_BYTES
from llama_gossip.directories import Directories
from tests.cli.cli_process import PROGRAM, READY_S, environment
from tests.live.conftest import eventually

pytestmark = pytest.mark.live

PIPE_BYTES = 4_096  # of a page: the smallest there is
LINE_BYTES = 180  # at least, of a `request`; a `request_end` is shorter by half
REQUESTS = 3 * (MAX_WAITING_BYTES + PIPE_BYTES) // LINE_BYTES
AT_ONCE = 8


def started(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(home),
    )
    assert process.stdout is not None
    fcntl.fcntl(process.stdout.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return process


def next_of(out: IO[bytes], name: str, **fields: object) -> dict[str, Any]:
    for line in out:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == name and all(event[field] == value for field, value in fields.items()):
            return event
    raise AssertionError(f"the output has ended without {name} {fields}")


async def ask_many(client: InferenceNode, worker: str, count: int) -> set[str]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> str:
        async with places:
            return (await client.complete(f"Prompt {number}", max_tokens=1, worker=worker)).request_id

    return set(await asyncio.gather(*(one(number) for number in range(count))))


async def test_a_worker_whose_output_is_not_read_serves_on_and_says_what_it_left_out(home: Path) -> None:
    with started(home, "worker", "--json", "--model", "scripted") as process:
        out = process.stdout
        assert out is not None
        try:
            worker = (await asyncio.to_thread(next_of, out, "ready"))["node_id"]
            dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(home)})
            async with InferenceNode.open(name="asker", dirs=dirs) as client:
                await eventually(lambda: len(client.peers()) == 1, "the client sees the worker")
                asked = await ask_many(client, worker, REQUESTS)  # and nobody reads meanwhile
                told: list[dict[str, Any]] = []

                def read_to_the_gap() -> None:
                    while not told or told[-1]["event"] != "dropped":
                        told.append(json.loads(out.readline()))

                await asyncio.to_thread(read_to_the_gap)
                later = await ask_many(client, worker, 1)
                await asyncio.to_thread(next_of, out, "request_end", request_id=later.pop())
                process.send_signal(signal.SIGTERM)
                assert (await asyncio.to_thread(next_of, out, "shutdown"))["reason"] == "terminated"
                assert await asyncio.to_thread(process.wait, READY_S) == 0
        finally:
            process.kill()
    ends = [event["request_id"] for event in told if event["event"] == "request_end"]
    begins = [event["request_id"] for event in told if event["event"] == "request"]
    assert set(ends) <= set(begins) < asked
    missing = 2 * REQUESTS - len(begins) - len(ends)
    assert 0 <= told[-1]["lines"] - missing <= 2  # a peer may have come or gone


async def test_a_worker_whose_output_is_not_read_ends_when_it_is_told_to(home: Path) -> None:
    with started(home, "worker", "--json", "--model", "scripted") as process:
        out = process.stdout
        assert out is not None
        try:
            worker = (await asyncio.to_thread(next_of, out, "ready"))["node_id"]
            dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(home)})
            async with InferenceNode.open(name="asker", dirs=dirs) as client:
                await eventually(lambda: len(client.peers()) == 1, "the client sees the worker")
                await ask_many(client, worker, REQUESTS)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, READY_S) == 0
        finally:
            process.kill()


async def test_hybrid_keeps_every_token_of_its_answers_for_a_reader_that_comes_late(home: Path) -> None:
    tokens = 2_000  # of 150 B and more each: four times what may wait
    command = ("hybrid", "--json", "--model", "scripted", "--max-tokens", str(tokens), "--seed", "1")
    with started(home, *command) as process:
        out = process.stdout
        assert out is not None
        assert process.stdin is not None
        try:
            own = (await asyncio.to_thread(next_of, out, "ready"))["node_id"]
            process.stdin.write(b"Hello\n")
            process.stdin.flush()
            dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(home)})
            async with InferenceNode.open(name="asker", dirs=dirs) as client:
                await eventually(lambda: len(client.peers()) == 1, "the client sees it")
                await ask_many(client, own, 20)  # served while its own answer waits for its reader

            def read_answer() -> tuple[str, str]:
                text = ""
                for line in out:
                    event = json.loads(line)
                    if event["event"] == "token":
                        text += event["text"]
                    elif event["event"] == "complete":
                        return text, event["text"]
                raise AssertionError("no answer")

            pieces, whole = await asyncio.to_thread(read_answer)
            assert pieces == whole
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(next_of, out, "shutdown")
            assert await asyncio.to_thread(process.wait, READY_S) == 0
        finally:
            process.kill()
