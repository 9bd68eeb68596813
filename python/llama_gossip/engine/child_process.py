"""The engine's process as its parent holds it: begun, spoken to, ended.

The law: it is in a session of its own, so that what a terminal sends reaches only the parent; it is asked to
end before it is killed; when `reap` has returned, it has gone and nothing of it is left open.
"""

from __future__ import annotations

import logging
import queue
import socket
import subprocess
import sys
import threading
from typing import Final

from llama_gossip.engine import wire
from llama_gossip.engine.progress import Progress, silent
from llama_gossip.errors import EngineError, ProtocolError

# -P: what lies in the working directory is no module of ours
COMMAND: Final = (sys.executable, "-P", "-m", "llama_gossip.engine.child")
STDERR: Final = 2
EXIT_S = 2.0  # from the pipe's end to the process's: it has nothing to do in between


class ChildProcess:
    def __init__(self, begin: wire.Begin) -> None:
        """Raises EngineError where no process can be had."""
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*COMMAND, str(fd)],
                    pass_fds=(fd,),
                    stdin=subprocess.DEVNULL,
                    stdout=STDERR,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise EngineError(f"no process for the engine: {error.strerror}", hint="see ulimit -u") from error
        self._pipe = wire.Pipe(ours, wire.TO_PARENT)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="engine outbox", daemon=True).start()
        self.send(wire.framed(wire.TO_CHILD, begin))

    @property
    def pid(self) -> int:
        return self._process.pid

    # --- any thread ---

    def send(self, frame: bytes) -> None:
        """Returns at once; what is sent to a process that has gone is lost with it."""
        self._outbox.put(frame)

    def end(self, timeout_s: float) -> bool:
        """Asks it to go, and kills it when it has not gone in time. False: it had to be killed."""
        self._pipe.end()
        self._outbox.put(None)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def _write(self) -> None:
        while (frame := self._outbox.get()) is not None:
            try:
                self._pipe.send(frame)
            except OSError:  # whoever receives learns it as well
                return

    # --- the thread that receives ---

    def open(self, progress: Progress | None) -> wire.Opened:
        """Waits until it has loaded its model. Raises what the load raised there, and EngineError where the
        process ended meanwhile; it has been reaped then."""
        try:
            opened = self._opened(silent if progress is None else progress)
        except BaseException:
            self.reap()
            raise
        if opened is None:
            raise EngineError(
                f"the engine's process ended while it loaded the model ({self.reap()})",
                hint="killed by signal 9 is most often a lack of memory: take a smaller model, or --dtype q4",
            )
        return opened

    def _opened(self, progress: Progress) -> wire.Opened | None:
        try:
            while (message := self._pipe.receive()) is not None:
                match message:
                    case wire.Progressed(stage, done, total):
                        progress(stage, done, total)
                    case wire.Logged():
                        relay(message)
                    case wire.Refused():
                        raise message.error()
                    case wire.Opened():
                        return message
                    case _:
                        raise ProtocolError(f"{type(message).__name__} of an engine that is not open")
        except ProtocolError as error:
            raise EngineError(f"the engine's process said what nobody can read: {error.message}") from error
        return None

    def receive(self) -> wire.Batch | wire.Report | None:
        """What an open engine says next; None at its end. Raises ProtocolError for what it never says."""
        while isinstance(message := self._pipe.receive(), wire.Logged):
            relay(message)
        if message is None or isinstance(message, wire.Batch | wire.Report):
            return message
        raise ProtocolError(f"{type(message).__name__} of an engine that is open")

    def reap(self) -> str:
        """Frees what is left of it once it has gone; how it went, in a few words."""
        asked = self.end(EXIT_S)
        self._pipe.close()
        code = self._process.returncode
        if not asked:
            return "it no longer answered"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def relay(record: wire.Logged) -> None:
    """Its log is this process's."""
    logger = logging.getLogger(record.logger)
    logger.log(record.level, "%s", record.message)
    if record.trace:
        logger.debug("%s", record.trace)
