"""Connector: from a candidate to an open stream, for requests that look for a worker and for those that may
soon need another.

The law: at most one stream of a request is used; what else was dialled is abandoned or reset at once. A
stream that was opened in advance carries nothing until its request needs it.
"""

from __future__ import annotations

from collections.abc import Callable

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.dialler import Dialler
from llama_gossip.protocol.effects import AbandonDial, ResetStream
from llama_gossip.protocol.finder import Finder
from llama_gossip.protocol.ledger import Ledger
from llama_gossip.protocol.request import Request, Spare
from llama_gossip.protocol.selection import Candidate
from llama_gossip.protocol.states import RequestStep
from llama_gossip.protocol.streams import Plane, StreamCode
from llama_gossip.protocol.tunnel import Tunnel

NOT_ADMITTED = "does not admit this node"


class Connector:
    def __init__(
        self,
        desk: Desk,
        *,
        finder: Finder,
        ledger: Ledger,
        tunnel: Tunnel,
        connected: Callable[[Request, Candidate, int], None],
        stuck: Callable[[Request], None],
    ) -> None:
        """connected: the request's stream is open. stuck: a dial has failed, perhaps none is left."""
        self._desk = desk
        self._finder = finder
        self._ledger = ledger
        self._tunnel = tunnel
        self._connected = connected
        self._stuck = stuck
        self._dialler = Dialler(desk, ledger)
        self._spares: dict[int, Request] = {}

    # --- a request without an attempt ---

    def dial(self, request: Request, candidate: Candidate) -> None:
        request.step(RequestStep.DIAL)
        self._desk.agenda.cancel(request.key("retry"))
        if candidate.plane is Plane.GOSSIP:
            self._by_gossip(request, candidate)
            return
        self._dialler.dial(request, candidate)
        self._desk.after(request.key("next_dial"), self._desk.timers.dial_next_ms)

    def _by_gossip(self, request: Request, candidate: Candidate) -> None:
        try:
            stream = self._tunnel.open(candidate.node_id, None if request.public else candidate.prekey)
        except ProtocolError as error:
            request.note(candidate.node_id, 0, f"cannot be asked by gossip: {error.message}")
            request.barred[candidate.node_id] = "fault"
            self._stuck(request)
            return
        self._connected(request, candidate, stream)

    def dial_another(self, request: Request) -> None:
        """The first has not connected soon enough: the next candidate is dialled too."""
        candidate = self._finder.another(request) if request.dials else None
        if candidate is not None:
            self.dial(request, candidate)

    def use_prepared(self, request: Request) -> bool:
        """The attempt has failed: what was dialled in advance is the next one's. False: nothing was."""
        spare = request.spare
        if spare is not None:
            self._forget(spare.stream)
            request.step(RequestStep.DIAL)
            self.stop(request)
            self._connected(request, spare.candidate, spare.stream)
        elif request.dials:
            request.step(RequestStep.DIAL)
            self.dial_another(request)
        else:
            return False
        return True

    def stop(self, request: Request) -> None:
        """Nothing that is being dialled or stands ready is needed any more."""
        self._desk.agenda.cancel(request.key("next_dial"))
        self._dialler.abandon(request)
        if request.spare is not None:
            self._drop(request.spare.stream, StreamCode.DONE)

    # --- in advance ---

    def prepare(self, request: Request) -> None:
        """Its worker is suspiciously silent: the next candidate is dialled already."""
        candidate = self._finder.beside(request) if request.spare is None else None
        if candidate is not None:
            self._desk.count("dials_in_advance")
            self._dialler.dial(request, candidate)

    def owns(self, stream: int) -> bool:
        return stream in self._spares

    def gone(self, stream: int) -> None:
        """A stream that stood ready has ended, or brought what nobody had asked for."""
        self._drop(stream, StreamCode.CANCELLED)

    def _drop(self, stream: int, code: StreamCode) -> None:
        self._forget(stream)
        self._desk.emit(ResetStream(stream, code))

    def _forget(self, stream: int) -> None:
        self._spares.pop(stream).spare = None

    # --- what becomes of dials ---

    def opened(self, dial: int, stream: int) -> None:
        taken = self._dialler.take(dial)
        if taken is None:  # nobody waits for it any more
            self._desk.emit(ResetStream(stream, StreamCode.DONE))
            return
        request, candidate = taken
        self._ledger.far(candidate.node_id, 0)
        self.stop(request)
        if request.attempt is None:
            self._connected(request, candidate, stream)
        else:
            request.spare = Spare(candidate, stream)
            self._spares[stream] = request

    def failed(self, dial: int, reason: str, *, refused: bool = False) -> None:
        taken = self._dialler.take(dial)
        if taken is None:
            return
        request, candidate = taken
        self._desk.count("dials_failed")
        if refused:
            request.note(candidate.node_id, 0, NOT_ADMITTED)
            request.barred[candidate.node_id] = "policy"
        else:
            request.note(candidate.node_id, 0, f"could not be reached: {reason}")
            self._unreachable(request, candidate)
        self._stuck(request)

    def _unreachable(self, request: Request, candidate: Candidate) -> None:
        """What cannot be dialled may still be asked by gossip; a worker that is gone answers neither way."""
        now_ms = self._desk.now.mono_ms
        if self._finder.may_go_by_gossip(request, candidate):
            self._ledger.far(candidate.node_id, now_ms + self._desk.timers.far_ms)
            return
        request.failed_before = True
        request.tired.add(candidate.node_id)
        self._ledger.out(candidate.node_id, self._finder.newest(candidate), now_ms)

    def timed_out(self, dial: int) -> None:
        self._desk.emit(AbandonDial(dial))
        self.failed(dial, f"no connection within {self._desk.timers.dial_ms} ms")
