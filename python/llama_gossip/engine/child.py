"""The engine's process: `python -m llama_gossip.engine.child FD`, begun by child_process.py.

The law: it lives as long as its pipe and not a moment longer, whatever its model does: the thread that reads
the pipe ends the process at the pipe's end. Signals to the group leave it alone, its parent decides; its
stdout is its stderr, since the parent's belongs to programs.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final, NoReturn, assert_never

from llama_gossip.engine import wire
from llama_gossip.engine.base import Engine, EngineEvent, EngineState, JobDone, JobFailed
from llama_gossip.engine.load import load_engine
from llama_gossip.errors import LlamaGossipError

REPORT_S: Final = 0.25  # half of how often a node looks at its engine
PROGRESS_S: Final = 0.05  # as often as a bar is drawn
GONE, BROKEN = 0, 1


class Line:
    """What the threads of this process say to its parent. A parent that has gone ends the process."""

    def __init__(self, pipe: wire.Pipe) -> None:
        self._pipe = pipe
        self._next_progress_s = 0.0

    def say(self, message: wire.ToParent) -> None:
        try:
            self._pipe.send(wire.framed(wire.TO_PARENT, message))
        except OSError:
            os._exit(GONE)

    def progress(self, stage: str, done: int, total: int, /) -> None:
        now_s = time.monotonic()
        if done == total or now_s >= self._next_progress_s:
            self._next_progress_s = now_s + PROGRESS_S
            self.say(wire.Progressed(stage, done, total))


class Records(logging.Handler):
    """Log records belong where the parent's go."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        text, trace = record.getMessage(), ""
        if record.exc_info:
            text += f" ({record.exc_info[1]!r})"
            trace = logging.Formatter().formatException(record.exc_info)
        self._line.say(wire.Logged(record.name, record.levelno, text, trace))


class Orders:
    """What the parent asks for. None of it comes before it was told that the engine is open."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.engine: Engine | None = None

    def follow(self, pipe: wire.Pipe) -> None:
        """Until the parent has gone, or says what nobody can read."""
        code = BROKEN
        try:
            while (message := pipe.receive()) is not None:
                self._obey(message)
            code = GONE
        except Exception:
            logging.getLogger(__name__).exception("an order could not be followed")
        finally:
            os._exit(code)

    def _obey(self, message: wire.ToChild) -> None:
        engine = self.engine
        if engine is None:
            raise RuntimeError(f"{type(message).__name__} before there is an engine")
        match message:
            case wire.Start():
                engine.start(self._sink)
            case wire.Submit(job):
                engine.submit(job)
            case wire.Cancel(job_id):
                engine.cancel(job_id)
            case wire.Park(job_id):
                engine.park(job_id)
            case wire.Unpark(job_id):
                engine.unpark(job_id)
            case wire.Begin():
                raise RuntimeError("a second beginning")
            case _:
                assert_never(message)

    def _sink(self, events: Sequence[EngineEvent]) -> None:
        """What cannot be said would leave a job without its end: then all of them end, with the process."""
        ended = any(isinstance(event, JobDone | JobFailed) for event in events)
        try:
            load = self.engine.load() if ended and self.engine is not None else None
            self._line.say(wire.Batch(tuple(events), load))
        except Exception:
            logging.getLogger(__name__).exception("a batch of events could not be handed over")
            os._exit(BROKEN)


def serve(begin: wire.Begin, line: Line, orders: Orders) -> NoReturn:
    try:
        engine = load_engine(
            begin.spec,
            device=begin.device,
            dtype=begin.dtype,
            max_concurrent=begin.max_concurrent,
            threads=begin.threads,
            numerics=begin.numerics,
            pool_bytes=begin.pool_bytes,
            progress=line.progress,
        )
    except Exception as error:  # the parent raises it again
        if not isinstance(error, LlamaGossipError):
            logging.getLogger(__name__).exception("the model could not be loaded")
        line.say(wire.Refused.of(error))
        os._exit(GONE)
    orders.engine = engine
    line.say(wire.Opened(engine.info, engine.load()))
    while True:
        time.sleep(REPORT_S)
        report(engine, line)


def report(engine: Engine, line: Line) -> None:
    """An engine whose model thread has ended takes its process along, for the parent to begin another."""
    load = engine.load()
    if load.state is EngineState.DOWN:
        logging.getLogger(__name__).error("the engine has ended")
        os._exit(BROKEN)
    line.say(wire.Report(load))


def main(fd: int) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(fd, False)  # in a process begun from here it would outlive this one
    pipe = wire.Pipe(socket.socket(fileno=fd), wire.TO_CHILD)
    begin = pipe.receive()
    if not isinstance(begin, wire.Begin):
        os._exit(BROKEN)
    line = Line(pipe)
    logging.basicConfig(handlers=[Records(line)], level=logging.WARNING)  # as the command line has it
    logging.getLogger("llama_gossip").setLevel(begin.log_level)
    orders = Orders(line)
    threading.Thread(target=orders.follow, args=(pipe,), name="engine orders", daemon=True).start()
    serve(begin, line, orders)


if __name__ == "__main__":
    main(int(sys.argv[1]))
