"""Where a command's words go. The law: with --json stdout holds nothing but NDJSON; without it answers go to
stdout and news to where the command wants them; what a peer said never moves a terminal's cursor."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, TextIO

from llama_gossip.cli.events import SHORT_ID, CliEvent, Dropped, Failure, as_object
from llama_gossip.plain_text import clean, one_line

if TYPE_CHECKING:
    from llama_gossip.cli.outlet import Outlet

Mode = Literal["human", "json", "quiet"]


def short(node_id: str) -> str:
    return node_id[:SHORT_ID]


def memory(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


class Output:
    """One command's output. `news` is the stream of human lines that are no answer."""

    def __init__(self, mode: Mode = "human", *, color: bool = True, news: TextIO | None = None) -> None:
        self.mode = mode
        self.news = news if news is not None else sys.stderr
        self.color = color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._line_open = False
        self._outlet: Outlet | None = None
        if isinstance(sys.stdout, io.TextIOWrapper):
            # a lone surrogate becomes \udXXX, which is right in JSON and readable elsewhere
            encoding = "utf-8" if mode == "json" else sys.stdout.encoding
            sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")

    def for_json(self) -> Output:
        return Output("json", color=self.color)

    # --- a reader that does not read ---

    @contextlib.contextmanager
    def unhurried(self, broken: Callable[[], object]) -> Iterator[None]:
        """Within it nobody waits for the reader of stdout, unless it is a terminal: lines that it is too slow
        for are left out and counted. broken: called from another thread when the reader has gone."""
        fd = _file_of_stdout()
        if fd is None or sys.stdout.isatty():
            yield
            return
        from llama_gossip.cli.outlet import Outlet  # asyncio comes with it, and --help is fast

        sys.stdout.flush()
        self._outlet = Outlet(fd, dropped=self._dropped, broken=broken)
        try:
            yield
        finally:
            self.flush()

    def flush(self) -> None:
        """Nothing more is written within `unhurried`. What its reader does not take now is left out."""
        if self._outlet is not None and self._outlet.close():
            self._outlet = None

    async def room(self) -> None:
        """Before what must not be left out: waits for the reader, and nobody else does."""
        if self._outlet is not None:
            await self._outlet.room()

    def _dropped(self, lines: int) -> str:
        return self._json(Dropped(lines)) if self.mode == "json" else f"… {lines} lines were left out here\n"

    def _json(self, event: CliEvent) -> str:
        return json.dumps(as_object(event, time.time_ns() // 1_000_000), ensure_ascii=False) + "\n"

    def _write(self, text: str, stream: TextIO) -> None:
        if self._outlet is not None and stream is sys.stdout:
            self._outlet.put(text)
        else:
            stream.write(text)
            stream.flush()

    # --- programs ---

    def event(self, event: CliEvent) -> None:
        """Printed in JSON mode only; what people see is said by `say`, `answer` and `row`."""
        if self.mode == "json":
            self._write(self._json(event), sys.stdout)

    # --- people ---

    def say(self, text: str = "", *, style: str = "") -> None:
        """News, in human mode only."""
        if self.mode == "human":
            self._print(text, self.news, style)

    def row(self, text: str) -> None:
        """A result that people asked for: also when quiet, never in JSON mode."""
        if self.mode != "json":
            self._print(text, sys.stdout)

    def warn(self, text: str) -> None:
        """Always, on stderr."""
        self._print(f"warning: {text}", sys.stderr, "yellow")

    def answer(self, text: str) -> None:
        """A piece of an answer, as it comes. A terminal gets it cleaned, a pipe as it is."""
        if self.mode == "json" or not text:
            return
        shown = clean(text) if sys.stdout.isatty() else text
        self._line_open = not text.endswith("\n")
        self._write(shown, sys.stdout)

    def account(self, text: str) -> None:
        """What people asked to be told about an answer: on stderr, also when quiet."""
        if self.mode != "json":
            self._print(text, sys.stderr, "dim")

    def answer_end(self) -> None:
        if self._line_open:
            self._line_open = False
            self._write("\n", sys.stdout)

    def failure(self, failure: Failure) -> None:
        """An error: one sentence and its remedy."""
        if self.mode == "json":
            self.event(failure)
            return
        self._print(f"error: {one_line(failure.message)}", sys.stderr, "red")
        if failure.hint:
            self._print(f"  {one_line(failure.hint)}", sys.stderr)

    def _print(self, text: str, stream: TextIO, style: str = "") -> None:
        if stream is sys.stdout or (stream.isatty() and sys.stdout.isatty()):
            self.answer_end()  # on one screen news would continue the answer's line; a pipe stays as it is
        if style and self.color and stream.isatty():
            text = f"{_STYLES[style]}{text}\x1b[0m"
        self._write(text + "\n", stream)


_STYLES = {"green": "\x1b[32m", "yellow": "\x1b[1;33m", "red": "\x1b[31m", "dim": "\x1b[2m"}


def _file_of_stdout() -> int | None:
    """None for what stands in its place within a process."""
    try:
        return sys.stdout.fileno()
    except io.UnsupportedOperation:
        return None


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Aligned columns, cells cleaned."""
    cells = [head, *(tuple(one_line(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
