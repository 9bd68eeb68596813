"""The README's code as data: its fenced blocks, and the commands of those that are for a shell.

A block that cannot be run in a test says why in a comment above it: <!-- not run: REASON -->
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

FENCE = re.compile(r"^```(\w*)$")
NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>\S.*) -->$")
SERVICES = ("worker", "gateway", "hybrid")
PIPES = frozenset({"|", "<", ">", "&"})  # with these it is the shell's


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # of its first line in the file, from 1
    source: str
    not_run: str = ""  # the reason


@dataclass(frozen=True)
class Command:
    """One command of a shell block. service: llama-gossip's arguments, where it runs until it is stopped."""

    text: str
    service: tuple[str, ...] = ()


def blocks(text: str) -> list[Block]:
    """All fenced blocks. Raises ValueError for one that is not closed, or a comment that gives no reason."""
    found: list[Block] = []
    above = language = reason = ""
    inside, lines, start = False, list[str](), 0
    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if inside and line == "```":
            found.append(Block(language, start, "\n".join(lines), reason))
            inside = False
        elif inside:
            lines.append(line)
        elif fence:
            language, reason = fence[1], _reason(above, number)
            above, inside, lines, start = "", True, [], number + 1
        elif line.strip():
            above = line
    if inside:
        raise ValueError(f"the block at line {start} is not closed")
    return found


def _reason(above: str, number: int) -> str:
    if not above.startswith("<!-- not run"):
        return ""
    match = NOT_RUN.match(above)
    if match is None:
        raise ValueError(f"the comment above the block at line {number} gives no reason")
    return match["reason"]


def commands(source: str) -> list[Command]:
    """Of a shell block, in order: continued lines and open quotes are one, comments and prompts are none.
    Raises ValueError for a quote that is not closed."""
    found, pending = [], ""
    for line in source.replace("\\\n", " ").splitlines():
        pending = f"{pending}\n{line}" if pending else line.strip().removeprefix("$ ")
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote goes on in the next line
            continue
        if words:
            found.append(Command(pending, _service(words)))
        pending = ""
    if pending:
        raise ValueError(f"a quote is not closed: {pending}")
    return found


def _service(words: list[str]) -> tuple[str, ...]:
    if words[0] != "llama-gossip" or words[1:2] == [] or words[1] not in SERVICES or PIPES & set(words):
        return ()
    return tuple(words[1:])
