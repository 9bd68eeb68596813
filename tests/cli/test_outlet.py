"""Outlet: a pipe whose reader stops, starts again or goes, and the writer that never waits for it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from llama_gossip.cli.outlet import MAX_WAITING_BYTES, Outlet

LATEST_S = 60.0  # only a failure waits so long
LINE = "x" * 99 + "\n"


@dataclass
class Pipe:
    reader: int
    writer: int
    outlet: Outlet = field(init=False)
    broken: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.outlet = Outlet(self.writer, dropped=lambda lines: f"dropped {lines}\n", broken=self.broken.set)

    def read_all(self) -> list[str]:
        """To the end; the outlet must have been closed or close meanwhile."""
        with os.fdopen(os.dup(self.reader), encoding="utf-8") as stream:
            return stream.readlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    made = Pipe(reader, writer)
    yield made
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue  # the test has closed it


def close(pipe: Pipe) -> None:
    assert pipe.outlet.close()
    os.close(pipe.writer)


def test_what_is_put_is_written_in_order_and_before_the_close_returns(pipe: Pipe) -> None:
    for n in range(200):
        pipe.outlet.put(f"{n}: 東京 \ud800\n")
    close(pipe)
    assert pipe.read_all() == [f"{n}: 東京 \\ud800\n" for n in range(200)]


def test_a_reader_that_stops_costs_lines_and_reads_how_many_in_their_place(pipe: Pipe) -> None:
    total = 4 * MAX_WAITING_BYTES // len(LINE)
    for n in range(total):  # nobody reads, and this comes to its end
        pipe.outlet.put(f"{n:099}\n")
    reading: list[str] = []
    reader = threading.Thread(target=lambda: reading.extend(pipe.read_all()))
    reader.start()
    asyncio.run(asyncio.wait_for(pipe.outlet.room(), LATEST_S))
    pipe.outlet.put("after it\n")
    close(pipe)
    reader.join(LATEST_S)
    *before, notice, after = reading
    assert before == [f"{n:099}\n" for n in range(len(before))]
    assert MAX_WAITING_BYTES // len(LINE) < len(before) < total
    assert (notice, after) == (f"dropped {total - len(before)}\n", "after it\n")


async def test_what_waits_for_room_is_never_left_out_and_holds_up_nobody_else(pipe: Pipe) -> None:
    total = 4 * MAX_WAITING_BYTES // len(LINE)

    async def careful() -> None:
        for n in range(total):
            await pipe.outlet.room()
            pipe.outlet.put(f"{n:099}\n")

    writing = asyncio.create_task(careful())
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert not writing.done()
    reading = asyncio.create_task(asyncio.to_thread(pipe.read_all))
    async with asyncio.timeout(LATEST_S):
        await writing
    await asyncio.to_thread(close, pipe)
    assert await reading == [f"{n:099}\n" for n in range(total)]


async def test_a_long_text_with_room_before_it_is_whole(pipe: Pipe) -> None:
    reading = asyncio.create_task(asyncio.to_thread(pipe.read_all))
    await pipe.outlet.room()
    pipe.outlet.put("y" * 5 * MAX_WAITING_BYTES + "\n")
    await pipe.outlet.room()
    pipe.outlet.put("z\n")
    await asyncio.to_thread(close, pipe)
    assert await reading == ["y" * 5 * MAX_WAITING_BYTES + "\n", "z\n"]


async def test_a_reader_that_goes_is_told_at_once_and_to_whoever_writes_or_waits(pipe: Pipe) -> None:
    for _ in range(4 * MAX_WAITING_BYTES // len(LINE)):
        pipe.outlet.put(LINE)
    waiting = asyncio.create_task(pipe.outlet.room())
    await asyncio.sleep(0)
    os.close(pipe.reader)
    async with asyncio.timeout(LATEST_S):
        await waiting
    assert await asyncio.to_thread(pipe.broken.wait, LATEST_S)
    with pytest.raises(BrokenPipeError):
        pipe.outlet.put(LINE)
    assert pipe.outlet.close()


def test_the_close_does_not_wait_for_a_reader_that_stands_still(pipe: Pipe) -> None:
    for _ in range(4 * MAX_WAITING_BYTES // len(LINE)):
        pipe.outlet.put(LINE)
    assert not pipe.outlet.close()
    pipe.outlet.put(LINE)  # and nobody else does
    os.close(pipe.reader)
    assert pipe.broken.wait(LATEST_S)


def test_a_pipe_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    total = 2 * MAX_WAITING_BYTES // len(LINE)
    reading: list[str] = []
    for n in range(total):
        pipe.outlet.put(f"{n:099}\n")
    reader = threading.Thread(target=lambda: reading.extend(pipe.read_all()))
    reader.start()
    asyncio.run(asyncio.wait_for(pipe.outlet.room(), LATEST_S))
    close(pipe)
    reader.join(LATEST_S)
    assert reading[:100] == [f"{n:099}\n" for n in range(100)]
