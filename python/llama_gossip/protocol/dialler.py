"""Dialler: the connections that are being made for requests, and whom they are for.

The law: every OpenStream ends as opened, failed or abandoned, within the dial timeout; what nobody waits for
any more is abandoned at once.
"""

from __future__ import annotations

from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import AbandonDial, OpenStream
from llama_gossip.protocol.ledger import Ledger
from llama_gossip.protocol.request import Request
from llama_gossip.protocol.selection import Candidate


class Dialler:
    def __init__(self, desk: Desk, ledger: Ledger) -> None:
        self._desk = desk
        self._ledger = ledger
        self._requests: dict[int, Request] = {}
        self._numbers = 0

    def dial(self, request: Request, candidate: Candidate) -> None:
        self._numbers += 1
        number, timeout_ms = self._numbers, self._desk.timers.dial_ms
        request.dials[number] = candidate
        self._requests[number] = request
        self._ledger.dial(candidate.node_id)
        self._desk.emit(OpenStream(number, candidate.node_id, timeout_ms))
        self._desk.after(("dial", number, "timeout"), timeout_ms)

    def take(self, number: int) -> tuple[Request, Candidate] | None:
        """Whose dial it was; it is over now. None: nobody waits for it."""
        request = self._requests.pop(number, None)
        if request is None:
            return None
        self._desk.agenda.cancel(("dial", number, "timeout"))
        candidate = request.dials.pop(number)
        self._ledger.dialled(candidate.node_id)
        return request, candidate

    def abandon(self, request: Request) -> None:
        for number in list(request.dials):
            self.take(number)
            self._desk.emit(AbandonDial(number))
