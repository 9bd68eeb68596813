"""Progress bars on stderr, on a terminal only. The law: they leave no trace on stdout and none in a log."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama_gossip.engine.progress import Progress, silent

if TYPE_CHECKING:
    from rich.progress import TaskID

MIN_BYTES = 1 << 20  # a total beyond this can only be bytes
VERBS = {"fetch": "fetching", "check": "checking", "convert": "converting", "load": "loading"}


@contextmanager
def progress_bars(*, shown: bool, color: bool = True) -> Iterator[Progress]:
    """A Progress that draws one bar a stage; it may be called from any thread."""
    if not shown or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, no_color=not color)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
    )
    with Bars(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        lock = threading.Lock()

        def report(stage: str, done: int, total: int, /) -> None:
            with lock:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(_doing(stage), total=None, amount="")
                bars.update(tasks[stage], completed=done, total=total or None, amount=_amount(done, total))

        yield report


def _doing(stage: str) -> str:
    """A stage may go on with whose it is: "load tiny-random"."""
    word, space, rest = stage.partition(" ")
    return VERBS.get(word, word) + space + rest


def _amount(done: int, total: int) -> str:
    if total >= MIN_BYTES:
        return f"{done / 1e6:.0f}/{total / 1e6:.0f} MB"
    return f"{done}/{total}" if total else ""
