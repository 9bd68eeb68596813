"""The demo: one worker, one client, two processes on loopback, a real model. By the public commands only.

It fetches the model if need be, asks three prompts, checks the answer to one of them, and cleans up.
Files stay in LLAMA_GOSSIP_HOME (default: .llama-gossip in the repository). Exit code 0: everything held.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"
COMMAND = [sys.executable, "-m", "llama_gossip"]
READY_S = 300  # a cold start of torch on a slow disk and a busy machine
ANSWER_S = 300
DRAIN_S = 60

CHECKED_PROMPT, CHECKED_WORD = "What is the capital of France?", "Paris"
PROMPTS = (
    (CHECKED_PROMPT, ["--temperature", "0", "--max-tokens", "40"]),
    ("Tell me a very short story about a fox.", ["--temperature", "0", "--max-tokens", "80"]),
    ("Name three colours.", ["--seed", "7", "--max-tokens", "40"]),
)


class DemoFailed(Exception):
    """One sentence: what did not hold."""


def say(text: str = "", *, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


def environment() -> dict[str, str]:
    home = os.environ.get("LLAMA_GOSSIP_HOME") or str(ROOT / ".llama-gossip")
    return {**os.environ, "LLAMA_GOSSIP_HOME": home, "PYTHONUNBUFFERED": "1"}


def events_of(process: subprocess.Popen[str], limit_s: float) -> Iterator[dict[str, Any]]:
    """The process's NDJSON events. A watchdog ends a process that says nothing any more."""
    assert process.stdout is not None
    deadline = time.monotonic() + limit_s
    for line in process.stdout:
        yield json.loads(line)
        if time.monotonic() > deadline:
            process.kill()
            raise DemoFailed(f"{process.args!r} took longer than {limit_s} s")


def start_worker(env: dict[str, str]) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    worker = subprocess.Popen(
        [*COMMAND, "worker", "--name", "demo-worker", "--model", MODEL, "--json"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    for event in events_of(worker, READY_S):
        if event["event"] == "ready":
            return worker, event
        if event["event"] == "error":
            raise DemoFailed(f"the worker did not start: {event['message']} ({event['hint']})")
    raise DemoFailed(f"the worker ended with exit code {worker.wait()} before it was ready")


def ask(prompt: str, options: list[str], env: dict[str, str]) -> dict[str, Any]:
    """Streams one answer to the terminal. Returns the client's `complete` event."""
    client = subprocess.Popen(
        [*COMMAND, "client", "--name", "demo-client", "--model", MODEL, "--json", *options, prompt],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    say(f"\n> {prompt}")
    complete: dict[str, Any] | None = None
    for event in events_of(client, ANSWER_S):
        if event["event"] == "token":
            say(event["text"], end="")
        elif event["event"] == "complete":
            complete = event
        elif event["event"] == "error":
            raise DemoFailed(f"no answer: {event['message']} ({event['hint']})")
    say()
    if client.wait() != 0 or complete is None:
        raise DemoFailed(f"the client ended with exit code {client.returncode}")
    return complete


def report(complete: dict[str, Any]) -> None:
    signatures = "signatures verified" if complete["verified"] else "SIGNATURES DO NOT HOLD"
    say(
        f"  [first token {complete['first_token_ms']:.0f} ms, {complete['tokens_per_s']:.1f} tok/s, "
        f"{complete['total_tokens']} tokens, worker {complete['worker'][:10]}, {signatures}]"
    )


def stop(worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGTERM)
    try:
        worker.communicate(timeout=DRAIN_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.communicate()
        raise DemoFailed(f"the worker did not stop within {DRAIN_S} s") from None
    if worker.returncode != 0:
        raise DemoFailed(f"the worker ended with exit code {worker.returncode}, not 0")


def check_nothing_is_left(env: dict[str, str]) -> None:
    rendezvous = Path(env["LLAMA_GOSSIP_HOME"]) / "run"
    left = [str(path) for path in rendezvous.rglob("*") if path.is_file() or path.is_socket()]
    if left:
        raise DemoFailed(f"left behind: {', '.join(left)}")


def run() -> None:
    env = environment()
    subprocess.run([*COMMAND, "models", "fetch", MODEL], env=env, check=True, stdout=subprocess.DEVNULL)
    say(f"Starting a worker with {MODEL} …")
    worker, ready = start_worker(env)
    try:
        say(f"Worker {ready['node_id'][:10]} is ready on {ready['device']}; reach {ready['reach']}.")
        for prompt, options in PROMPTS:
            complete = ask(prompt, options, env)
            report(complete)
            if not complete["verified"]:
                raise DemoFailed("a signature of the transcript does not hold")
            if prompt == CHECKED_PROMPT and CHECKED_WORD not in complete["text"]:
                raise DemoFailed(f"the answer to {prompt!r} does not contain {CHECKED_WORD!r}")
    finally:
        stop(worker)
    check_nothing_is_left(env)
    say("\nThe worker has stopped. Everything held: Paris, signatures, a clean end.")


def main() -> int:
    """Exit code of the demo."""
    try:
        run()
    except DemoFailed as failure:
        sys.stderr.write(f"\nThe demo failed: {failure}\n")
        return 1
    except subprocess.CalledProcessError as failure:
        sys.stderr.write(f"\nThe demo failed: {' '.join(failure.cmd[2:])} ended with {failure.returncode}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
