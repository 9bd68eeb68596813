"""One invocation: its options, directories, output and node. The law: what a command opens here is closed
here, also when it fails."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from llama_gossip.cli.options import given
from llama_gossip.cli.output import Mode, Output
from llama_gossip.config import Config, Directories, load_config, unread_variables
from llama_gossip.directories import absolute_path
from llama_gossip.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from llama_gossip.node import InferenceNode

MAX_TICKET_FILE_BYTES = 64 * 1024  # some dozens of tickets
LEVELS = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


def debugging() -> bool:
    return os.environ.get("LLAMA_GOSSIP_DEBUG", "") not in ("", "0")


@dataclass
class Session:
    """Made by `main` before any option is known: every error finds its output. `begin` fills it in."""

    output: Output = field(default_factory=Output)
    config: Config = field(default_factory=Config)
    dirs: Directories = field(default_factory=Directories.find)
    tickets: list[str] = field(default_factory=list)

    def begin(self, arguments: dict[str, Any], *, news: TextIO | None = None) -> Config:
        """Reads the options. Raises UsageError, ConfigError."""
        self.config = config = load_config(given(arguments), self.dirs)
        mode: Mode = "json" if config.json else "quiet" if config.quiet else "human"
        self.output = Output(mode, color=not config.no_color, news=news)
        _log_to_stderr(config.verbose)
        for sentence in unread_variables():
            self.output.warn(sentence)
        return config

    def read_join(self) -> None:
        """Reads the tickets of --join. Before the loop starts, where waiting for stdin can be interrupted."""
        self.tickets = read_tickets(self.config.join)

    @contextlib.asynccontextmanager
    async def node(self, role: str | None = None) -> AsyncIterator[InferenceNode]:
        """A node of this user, bound and not yet joined; shut down at the end of the block."""
        from llama_gossip.identity import read_allowlist
        from llama_gossip.node import InferenceNode

        config = self.config
        node = await InferenceNode.spawn(
            config.name,
            join=self.tickets,
            network=config.network,
            reach=config.reach,
            key_file=config.key_file,
            dirs=self.dirs,
            allow=read_allowlist(config.allowlist) if config.allowlist else None,
            role=role,
        )
        try:
            yield node
        finally:
            await node.shutdown()


# --- tickets -----------------------------------------------------------------------------------


def read_tickets(given_tickets: Sequence[str]) -> list[str]:
    """Tickets as they are, out of files (@file) and from stdin (-). Raises UsageError, ConfigError."""
    tickets: list[str] = []
    for text in given_tickets:
        if text == "-":
            tickets += _ticket_lines(sys.stdin.buffer.read(MAX_TICKET_FILE_BYTES + 1), "stdin")
        elif text.startswith("@"):
            tickets += _ticket_lines(_read(absolute_path(text[1:])), text[1:])
        else:
            tickets.append(text)
    return tickets


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_TICKET_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the ticket file {path}: {error.strerror}",
            hint="llama-gossip ticket > FILE writes one, --join @FILE reads it",
        ) from error


def _ticket_lines(content: bytes, where: str) -> list[str]:
    lines = [line.strip() for line in content.decode("ascii", "replace").splitlines()]
    tickets = [line for line in lines if line]
    if len(content) > MAX_TICKET_FILE_BYTES or not tickets:
        raise UsageError(f"{where} holds no ticket", hint="it must hold one line that begins with lg1")
    return tickets


# --- logging -----------------------------------------------------------------------------------


class _Sentences(logging.Formatter):
    """Log lines without tracebacks, unless somebody debugs: an error is a sentence."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and not debugging():
            reason = record.exc_info[1]
            record = logging.makeLogRecord(record.__dict__)
            record.msg, record.args = f"{record.getMessage()} ({reason!r})".replace("\n", " "), ()
            record.exc_info = record.exc_text = record.stack_info = None
        return super().format(record)


def _log_to_stderr(verbose: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Sentences("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # other packages' chatter stays out
    logging.getLogger("llama_gossip").setLevel(LEVELS[verbose])
