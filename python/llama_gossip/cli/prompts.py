"""Where prompts come from: the command line, a pipe, a line at a time. The law: bytes that are no text are
refused with a sentence, and waiting for input never keeps the process from ending."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator

from llama_gossip.errors import UsageError

MAX_PROMPT_BYTES = 1 << 20  # what the first frame of a request can carry
READ_BYTES = 64 * 1024
WAITING_LINES = 64  # read ahead of the answers; beyond it the pipe waits


def prompt_from(positional: str | None, option: str | None, *, raw: bool, stdin_taken: bool) -> str:
    """The one prompt of `client`. Raises UsageError when there is none, or two."""
    if positional is not None and option is not None:
        raise UsageError("two prompts were given", hint="either the text or --prompt, not both")
    text = positional if positional is not None else option
    if text is None and sys.stdin.isatty():
        raise UsageError(
            "there is no prompt, and the interactive session comes in a later version",
            hint='llama-gossip client "Hello", or: echo Hello | llama-gossip client -',
        )
    if text is None or (text == "-" and option is None):
        if stdin_taken:
            raise UsageError("stdin cannot give both a ticket and the prompt", hint="use --join @file")
        text = _decoded(sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1))
        if not raw:
            text = text.removesuffix("\n")  # the line's end, not the message's
    if not text or (not raw and not text.strip()):
        raise UsageError("the prompt is empty", hint='write it in quotes: llama-gossip client "Hello"')
    if len(text.encode("utf-8", "surrogateescape")) > MAX_PROMPT_BYTES:
        raise UsageError(f"the prompt is longer than {MAX_PROMPT_BYTES} bytes", hint="shorten it")
    return text


def _decoded(content: bytes) -> str:
    if len(content) > MAX_PROMPT_BYTES:
        raise UsageError(f"the prompt is longer than {MAX_PROMPT_BYTES} bytes", hint="shorten it")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the prompt is not UTF-8 text (byte {error.start})", hint="convert it first"
        ) from None


async def stdin_lines() -> AsyncIterator[bytes]:
    """Lines of stdin, without their ends, until it closes."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()
    room = threading.Semaphore(WAITING_LINES)

    def put(line: bytes | None) -> None:
        room.acquire()
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody reads any more
            loop.call_soon_threadsafe(lines.put_nowait, line)

    def read() -> None:
        # os.read, not sys.stdin: a thread that waits inside a buffered reader breaks the interpreter's exit
        waiting = b""
        with contextlib.suppress(OSError):  # a closed terminal is an end like any other
            while chunk := os.read(0, READ_BYTES):
                *complete, waiting = (waiting + chunk).split(b"\n")
                for line in complete:
                    put(line)
                if len(waiting) > MAX_PROMPT_BYTES:
                    put(waiting)  # refused as too long where it is decoded
                    waiting = b""
        if waiting:
            put(waiting)
        put(None)

    threading.Thread(target=read, daemon=True, name="llama-gossip stdin").start()
    while (line := await lines.get()) is not None:
        room.release()
        yield line


def line_prompt(line: bytes) -> str:
    """One line of `hybrid`; "" for an empty one. Raises UsageError."""
    return _decoded(line.removesuffix(b"\r")).strip()
