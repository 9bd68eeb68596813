"""Signals and input, each in a process of its own: orderly ends, hard ends, bounded ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# A client: tells its state, ends as `interruptible` makes it end.
CLIENT = """
import asyncio, sys, time
from llama_gossip.cli import signals
signals.CLIENT_GRACE_S = float(sys.argv[2])
async def work():
    print("working", flush=True)
    try:
        await asyncio.sleep(600)
    finally:
        print("cleaning", flush=True)
        if sys.argv[1] == "slow":
            await asyncio.sleep(600)
        if sys.argv[1] == "stuck":
            time.sleep(600)
        print("clean", flush=True)
    return 0
sys.exit(asyncio.run(signals.interruptible(work())))
"""

# A server: waits for the first signal, then takes its time to drain.
SERVER = """
import asyncio, sys, time
from llama_gossip.cli import signals
async def work():
    with signals.Signals(grace_s=600) as caught:
        if sys.argv[1] == "load":
            load = signals.in_own_thread(lambda: time.sleep(600) or "loaded")
            print("working", flush=True)
            print("engine", await caught.until_stopped(load), flush=True)
            return 0
        print("working", flush=True)
        await caught.stopped.wait()
        print("draining", caught.reason, flush=True)
        await asyncio.sleep(600 if sys.argv[1] == "slow" else 0)
    return 0
import os
code = asyncio.run(work())
sys.stdout.flush()
os._exit(code)
"""

READ_LINES = """
import asyncio
from llama_gossip.cli.prompts import stdin_lines
async def work():
    async for line in stdin_lines():
        print(line.decode(), flush=True)
        if line == b"stop":
            return
asyncio.run(work())
print("end", flush=True)
"""
LONG_S = 150.0  # a quarter of what each of these scripts would sleep: only a failure waits so long


@contextmanager
def script(text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LONG_S)
    return process.returncode, out.strip(), err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_client_cleans_up_and_its_exit_code_names_the_signal(number: signal.Signals, code: int) -> None:
    with script(CLIENT, "quick", "600") as process:
        assert line_of(process) == "working"
        process.send_signal(number)
        returned, out, err = end_of(process)
    assert (returned, out, err) == (code, "cleaning\nclean", "")


@pytest.mark.parametrize("how", ["slow", "stuck"])
def test_a_client_that_cannot_clean_up_ends_all_the_same(how: str) -> None:
    with script(CLIENT, how, "1") as process:
        assert line_of(process) == "working"
        process.send_signal(signal.SIGINT)
        returned, out, err = end_of(process)
    assert (returned, out, err) == (130, "cleaning", "")


def test_the_second_signal_ends_a_client_at_once() -> None:
    with script(CLIENT, "slow", "600") as process:
        assert line_of(process) == "working"
        process.send_signal(signal.SIGINT)
        assert line_of(process) == "cleaning"
        process.send_signal(signal.SIGTERM)
        returned, _, err = end_of(process)
    assert (returned, err) == (143, "")  # at the end of its grace it would be the first signal's


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_the_first_signal_drains_a_server_and_ends_it_with_0(number: signal.Signals, reason: str) -> None:
    with script(SERVER, "quick") as process:
        assert line_of(process) == "working"
        process.send_signal(number)
        returned, out, err = end_of(process)
    assert (returned, out, err) == (0, f"draining {reason}", "")


def test_the_second_signal_ends_a_draining_server_at_once() -> None:
    with script(SERVER, "slow") as process:
        assert line_of(process) == "working"
        process.send_signal(signal.SIGINT)
        assert line_of(process) == "draining interrupted"
        process.send_signal(signal.SIGTERM)
        returned, _, err = end_of(process)
    assert (returned, err) == (143, "")  # at the end of its grace it would be the first signal's


def test_a_signal_does_not_wait_for_a_model_that_loads() -> None:
    with script(SERVER, "load") as process:
        assert line_of(process) == "working"
        process.send_signal(signal.SIGTERM)
        returned, out, err = end_of(process)
    assert (returned, out, err) == (0, "engine None", "")


def test_lines_come_one_by_one_also_without_a_last_newline() -> None:
    with script(READ_LINES) as process:
        assert process.stdin is not None
        process.stdin.write("one\ntw")
        process.stdin.flush()
        assert line_of(process) == "one"
        process.stdin.write("o\n\nthree")
        process.stdin.close()
        process.stdin = None
        returned, out, err = end_of(process)
    assert (returned, out, err) == (0, "two\n\nthree\nend", "")


def test_a_pipe_that_stays_open_does_not_hold_the_process() -> None:
    with script(READ_LINES) as process:
        assert process.stdin is not None
        process.stdin.write("stop\n")
        process.stdin.flush()
        assert line_of(process) == "stop"
        assert line_of(process) == "end"
        assert process.wait(timeout=LONG_S) == 0
        assert process.stderr is not None
        process.stdin.close()
        assert process.stderr.read() == ""


def test_many_lines_at_once_all_come_in_order() -> None:
    count = 5000
    with script(READ_LINES) as process:
        out, err = process.communicate("".join(f"{n}\n" for n in range(count)), timeout=LONG_S)
    assert out.splitlines() == [*map(str, range(count)), "end"]
    assert err == ""
