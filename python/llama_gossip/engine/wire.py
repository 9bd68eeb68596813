"""Wire: what an engine in a process of its own and its parent tell each other, over one pair of sockets.

The law: a message is a length (u32 BE) and so many bytes of msgpack; what is longer than the limit or no
message is refused before anything is built from it. A pipe that has ended stays so: neither side answers.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from llama_gossip import errors
from llama_gossip.engine.base import EngineEvent, EngineInfo, EngineJob, EngineLoad, JobId
from llama_gossip.engine.fieldwise import Form, form_of
from llama_gossip.errors import EngineError, LlamaGossipError, ProtocolError
from llama_gossip.protocol.structure import pack, unpack_payload

MAX_MESSAGE_BYTES: Final = 64 << 20  # sixty of the largest prompts that a node takes
_LENGTH_BYTES: Final = 4
_MAX_DEPTH: Final = 12  # the deepest, an alternative of a log probability, has 9


# --- to the child ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message: what `load_engine` takes, and from which level on log records are of interest."""

    spec: str
    device: str | None
    dtype: str | None
    max_concurrent: int
    threads: int | None
    numerics: str
    pool_bytes: int | None
    log_level: int


@dataclass(frozen=True, slots=True)
class Start:
    """Somebody listens: the work may begin."""


@dataclass(frozen=True, slots=True)
class Submit:
    job: EngineJob


@dataclass(frozen=True, slots=True)
class Cancel:
    job_id: JobId


@dataclass(frozen=True, slots=True)
class Park:
    job_id: JobId


@dataclass(frozen=True, slots=True)
class Unpark:
    job_id: JobId


ToChild: TypeAlias = Begin | Start | Submit | Cancel | Park | Unpark


# --- to the parent -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progressed:
    """A call of a Progress."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Logged:
    logger: str
    level: int
    message: str
    trace: str  # "" without an exception


@dataclass(frozen=True, slots=True)
class Opened:
    """The engine is loaded, checked and warm."""

    info: EngineInfo
    load: EngineLoad


@dataclass(frozen=True, slots=True)
class Refused:
    """It could not be loaded."""

    kind: str  # the name of a class of errors.py
    message: str
    hint: str
    code: str

    @classmethod
    def of(cls, error: Exception) -> Refused:
        if not isinstance(error, LlamaGossipError):
            said = f"the model could not be loaded ({type(error).__name__}: {error})"
            error = EngineError(said, hint="see the log")
        known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return cls(known.__name__, error.message, error.hint, error.code)

    def error(self) -> LlamaGossipError:
        kind = getattr(errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, LlamaGossipError)):
            kind = EngineError
        return kind(self.message, hint=self.hint, code=self.code)


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of the sink. load: with the end of a job, where its figures move."""

    events: tuple[EngineEvent, ...]
    load: EngineLoad | None


@dataclass(frozen=True, slots=True)
class Report:
    load: EngineLoad


ToParent: TypeAlias = Progressed | Logged | Opened | Refused | Batch | Report

TO_CHILD: Final = form_of(ToChild)
TO_PARENT: Final = form_of(ToParent)


# --- the pipe ----------------------------------------------------------------------------------


def framed(form: Form, message: ToChild | ToParent) -> bytes:
    """A message with its length in front. Raises ValueError for what msgpack cannot hold or is too long."""
    try:
        payload = pack(form.encode(message))
    except (OverflowError, TypeError) as error:  # an integer beyond 64 bits, a value of another type
        raise ValueError(str(error)) from error
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{len(payload)} bytes in one message")
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


class Pipe:
    """One end. Any thread may send and end, one thread receives."""

    def __init__(self, sock: socket.socket, receives: Form) -> None:
        self._socket = sock
        self._reader = sock.makefile("rb")
        self._receives = receives
        self._sending = threading.Lock()

    def send(self, frame: bytes) -> None:
        """Blocks while the other side does not read. Raises OSError when it has gone."""
        with self._sending:
            self._socket.sendall(frame)

    def receive(self) -> Any | None:
        """The next message; None at the end. Raises ProtocolError for bytes that are none."""
        try:
            head = self._reader.read(_LENGTH_BYTES)
            size = int.from_bytes(head, "big")
            if size > MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a message of {size} bytes", code="too_long")
            payload = self._reader.read(size)
        except ConnectionError:  # it went with something unread
            return None
        if len(head) < _LENGTH_BYTES or len(payload) < size:
            return None
        return self._receives.decode(unpack_payload(payload, MAX_MESSAGE_BYTES, _MAX_DEPTH))

    def end(self) -> None:
        """The other side reads the end, and a `send` that blocks fails; what is on its way can be read."""
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """By the thread that receives."""
        self._reader.close()
        self._socket.close()
