"""Requester: the requests of this node's user, from submit to exactly one terminal event each.

The law: one live attempt a request, attempt numbers only rise, tokens come from the current attempt alone,
and what ended is cancelled at its worker before another continues it. One's own worker is a candidate like
any other: the driver loops an OpenStream to the own id in process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from llama_gossip.errors import ProtocolError, UsageError
from llama_gossip.protocol import aftermath, told
from llama_gossip.protocol.assignment import assign_of, encoded, extended_deadline
from llama_gossip.protocol.attempt import Attempt, Awake, Completed, Ended, Got, How, News, Slow, Taken
from llama_gossip.protocol.connector import NOT_ADMITTED, Connector
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import (
    Accepted,
    Failed,
    FinishStream,
    ResetStream,
    Retried,
    WriteStream,
)
from llama_gossip.protocol.events import CancelRequest, Submit
from llama_gossip.protocol.finder import Finder, Hold
from llama_gossip.protocol.ledger import Ledger
from llama_gossip.protocol.limits import TOO_BIG_FOR_GOSSIP
from llama_gossip.protocol.messages import Claim, Complete, NodeId, RequestId, Token
from llama_gossip.protocol.nobody import Why, why_unsendable
from llama_gossip.protocol.request import Request, begun
from llama_gossip.protocol.selection import Candidate
from llama_gossip.protocol.solicitor import Solicitor, check_public
from llama_gossip.protocol.states import RequestStep
from llama_gossip.protocol.streams import Delivery, Plane, StreamCode
from llama_gossip.protocol.transcript import TranscriptBook
from llama_gossip.protocol.tunnel import Tunnel


class Requester:
    def __init__(
        self,
        desk: Desk,
        *,
        finder: Finder,
        solicitor: Solicitor,
        ledger: Ledger,
        book: TranscriptBook,
        tunnel: Tunnel,
    ) -> None:
        self._desk = desk
        self._solicitor = solicitor
        self._finder = finder
        self._ledger = ledger
        self._book = book
        self._requests: dict[RequestId, Request] = {}
        self._by_stream: dict[int, Request] = {}
        self.connector = Connector(
            desk, finder=finder, ledger=ledger, tunnel=tunnel, connected=self._assign, stuck=self._next
        )

    def __len__(self) -> int:
        return len(self._requests)

    def owns(self, stream: int) -> bool:
        return stream in self._by_stream or self.connector.owns(stream)

    # --- the user ---

    def submit(self, event: Submit) -> None:
        """Raises UsageError for a request id that is still in use."""
        if event.request_id in self._requests:
            raise UsageError("this request id is in use", hint="draw 16 random bytes a request")
        request = begun(event, self._desk.timers, self._desk.now.mono_ms)
        self._requests[event.request_id] = request
        self._book.open(event.request_id)
        self._desk.count("requests")
        try:
            check_public(self._desk, request)
        except ProtocolError as error:
            self._end(request, why_unsendable(request, error))
            return
        self._desk.agenda.set(request.key("deadline"), request.deadline_mono_ms)
        self._next(request)

    def cancel(self, event: CancelRequest) -> None:
        request = self._requests.get(event.request_id)
        if request is not None and not request.ended:
            self._end(request, Why("cancelled", event.reason, "", tuple(request.trail)))

    def hold(self, request_id: RequestId) -> None:
        """Its reader has no room for more."""
        request = self._requests.get(request_id)
        if request is None or request.ended:
            return
        request.held = True
        self._desk.count("requests_held")
        self.connector.stop(request)
        self._solicitor.leave(request)
        if request.attempt is not None:
            request.attempt.pause()

    def read_on(self, request_id: RequestId) -> None:
        request = self._requests.get(request_id)
        if request is None or request.ended:
            return
        request.held = False
        if request.attempt is not None:
            request.attempt.read_on()
        self._next(request)

    def goodbye(self, reason: str) -> None:
        for request in list(self._requests.values()):
            if request.ended:
                self._close(request)
            else:
                self._end(request, Why("cancelled", f"this node ends: {reason}", "", tuple(request.trail)))

    # --- finding a worker ---

    def joined(self) -> None:
        self._finder.joined()
        self._solicitor.joined()
        self.roster_changed()

    def roster_changed(self) -> None:
        self._look_again(self._requests.values())

    def claimed(self, sender: NodeId, claim: Claim) -> None:
        self._look_again(self._solicitor.claimed(sender, claim))

    def call_timer(self, number: int, name: str) -> None:
        self._look_again(self._solicitor.timer(number, name))

    def _look_again(self, requests: Iterable[Request]) -> None:
        for request in list(requests):
            self._next(request)

    def _next(self, request: Request) -> None:
        """Dials somebody, or waits for a reason, or ends because nobody can."""
        if not request.idle:
            return
        found = self._finder.find(request)
        if isinstance(found, Hold):
            self._wait(request, found)
        else:
            self._solicitor.leave(request)
            self.connector.dial(request, found)

    def _wait(self, request: Request, hold: Hold) -> None:
        if hold.until_mono_ms <= self._desk.now.mono_ms:
            self._end(request, hold.why)
            return
        request.step(RequestStep.SOLICIT)
        self._solicitor.ask(request)
        self._desk.agenda.set(request.key("retry"), hold.until_mono_ms)

    # --- the attempt ---

    def _assign(self, request: Request, candidate: Candidate, stream: int) -> None:
        if request.submit.deadline_ms is None:
            request.deadline_mono_ms = extended_deadline(self._desk, request, candidate)
            self._desk.agenda.set(request.key("deadline"), request.deadline_mono_ms)
        request.attempts += 1
        want = request.want()
        mark = self._finder.mark(request, candidate.node_id)
        assign = assign_of(self._desk, request, candidate, want.promised(candidate.offer), mark)
        try:
            data, context = encoded(self._desk, assign, candidate.plane)
        except ProtocolError as error:
            self._unsendable(request, stream, error)
            return
        self._book.add_assign(request.request_id, data)
        self._desk.emit(WriteStream(stream, data))
        self._desk.count("attempts")
        self._ledger.start(candidate.node_id)
        self._by_stream[stream] = request
        request.attempt = Attempt(
            self._desk,
            self._book,
            assign=assign,
            candidate=candidate,
            stream=stream,
            context=context,
            sent_bytes=len(data),
            stall_ms=request.stall_ms,
            prefix=request.prefix,
            continuation=want.continuation,
        )

    def _unsendable(self, request: Request, stream: int, error: ProtocolError) -> None:
        self._desk.emit(ResetStream(stream, StreamCode.CANCELLED))
        request.too_big = request.too_big or error.code == TOO_BIG_FOR_GOSSIP
        if error.code == TOO_BIG_FOR_GOSSIP and request.delivery is Delivery.AUTO:
            self._next(request)  # whoever can be dialled is still there
        else:
            self._end(request, why_unsendable(request, error))

    # --- what the stream brings ---

    def data(self, stream: int, data: bytes) -> None:
        if self.connector.owns(stream):
            self.connector.gone(stream)
            return
        request = self._by_stream[stream]
        attempt = request.attempt
        if attempt is None or attempt.stream != stream:
            return  # after the end of the answer
        for news in attempt.feed(data):
            self._apply(request, attempt, news)

    def finished(self, stream: int) -> None:
        self._gone(stream, "ended the stream without the end of the answer")

    def was_reset(self, stream: int, code: int) -> None:
        self._gone(stream, f"abandoned the stream ({StreamCode.name_of(code)})")

    def lost(self, stream: int, reason: str, *, refused: bool = False) -> None:
        if refused:
            self._gone(stream, NOT_ADMITTED, How.REFUSED)
        else:
            self._gone(stream, f"was lost: {reason}")

    def _gone(self, stream: int, reason: str, how: How = How.LOST) -> None:
        if self.connector.owns(stream):
            self.connector.gone(stream)
            return
        request = self._by_stream[stream]
        if request.attempt is None:
            self._close(request)
        else:
            self._apply(request, request.attempt, Ended(how, reason))

    def _apply(self, request: Request, attempt: Attempt, news: News) -> None:
        match news:
            case Taken():
                request.step(RequestStep.ACCEPT)
                request.accepted += 1
                self._desk.emit(Accepted(request.request_id, attempt.worker, attempt.number, attempt.plane))
            case Got(token):
                self._release(request, attempt, token)
            case Slow():
                self.connector.prepare(request)
            case Awake():
                self.connector.stop(request)
            case Completed(complete):
                self._completed(request, attempt, complete)
            case Ended():
                self._failed(request, attempt, news)
            case _:
                assert_never(news)

    def _release(self, request: Request, attempt: Attempt, token: Token) -> None:
        """The one place where tokens go to the user."""
        if request.delivered == 0:
            self._ledger.first_token(attempt.worker, self._desk.now.mono_ms - attempt.sent_mono_ms)
        self._mend(request, attempt)
        request.prefix.add(token, attempt.maker, attempt.seam)
        request.last_token_mono_ms = self._desk.now.mono_ms
        self._desk.count("tokens_received", len(token.texts))
        self._desk.emit(told.tokens(attempt, token))

    def _mend(self, request: Request, attempt: Attempt) -> None:
        """The answer goes on behind the seam, and the user hears how."""
        seam, request.seam = request.seam, None
        if seam is None or attempt.seam is None:
            return
        self._desk.count(f"failovers_{attempt.seam.word}")
        gap_ms = self._desk.now.mono_ms - request.last_token_mono_ms
        self._desk.emit(told.mended(attempt, seam, attempt.seam, gap_ms))

    def _completed(self, request: Request, attempt: Attempt, complete: Complete) -> None:
        request.step(RequestStep.COMPLETE)
        self.connector.stop(request)
        self._mend(request, attempt)
        slots = attempt.candidate.capacity.max_concurrent
        self._ledger.success(attempt.worker, attempt.tokens_per_s(), slots)
        self._finder.answered(request, attempt.worker)
        attempt.read_on()  # to the end of its stream
        self._release_attempt(request, attempt)
        request.closing = attempt.stream
        self._by_stream[attempt.stream] = request
        self._desk.agenda.cancel(request.key("deadline"))
        self._desk.after(("attempt", attempt.stream, "closing"), self._desk.timers.closing_ms)
        self._desk.emit(FinishStream(attempt.stream))
        self._desk.count("requests_done")
        self._book.end(request.request_id)
        self._desk.emit(told.finished(attempt, complete))

    def _failed(self, request: Request, attempt: Attempt, ended: Ended) -> None:
        self._desk.count(f"attempts_{ended.how.name.lower()}")
        request.note(attempt.worker, attempt.number, ended.reason)
        self._end_attempt(request, attempt, ended)
        if ended.how is How.SILENT and attempt.accepted:
            request.stall_ms = min(2 * request.stall_ms, self._desk.timers.stall_max_ms)
        newest = self._finder.newest(attempt.candidate)
        aftermath.settle(self._desk, self._ledger, request, attempt, ended, newest=newest)
        aftermath.torn(request, attempt, ended)
        why = aftermath.judge(request, attempt, ended)
        if why is not None:
            self._end(request, why)
            return
        self._desk.emit(Retried(request.request_id, attempt.number, attempt.worker, ended.reason))
        reborn = aftermath.reborn(request, attempt, ended)
        if reborn is not None:
            self.connector.dial(request, reborn)
        elif not self.connector.use_prepared(request):
            self._next(request)

    def _end_attempt(self, request: Request, attempt: Attempt, ended: Ended) -> None:
        """A live attempt is cancelled at its worker before anything else begins."""
        match ended.how:
            case How.REJECTED | How.ERROR:
                self._desk.emit(ResetStream(attempt.stream, StreamCode.DONE))
            case How.FAULT | How.DIGEST if attempt.plane is Plane.DIRECT:
                self._desk.emit(ResetStream(attempt.stream, StreamCode.PROTOCOL))
            case How.SILENT | How.IDLE | How.SHORT | How.UNEQUAL | How.FAULT | How.DIGEST:
                # On a stream only what is no fault; a Packet brings no reset.
                self._cancel_live(attempt, ended.reason)
            case How.LOST | How.REFUSED:
                self._desk.emit(ResetStream(attempt.stream, StreamCode.CANCELLED))
            case _:
                assert_never(ended.how)
        self._release_attempt(request, attempt)

    def _cancel_live(self, attempt: Attempt, reason: str) -> None:
        self._desk.emit(WriteStream(attempt.stream, attempt.cancel_frame(reason)))
        self._desk.emit(ResetStream(attempt.stream, StreamCode.CANCELLED))

    def _release_attempt(self, request: Request, attempt: Attempt) -> None:
        attempt.stop_timers()
        self._ledger.end(attempt.worker)
        del self._by_stream[attempt.stream]
        request.attempt = None

    # --- ends ---

    def _end(self, request: Request, why: Why) -> None:
        """The one terminal event of a request that does not succeed."""
        request.step(RequestStep.CANCEL if why.code == "cancelled" else RequestStep.FAIL)
        self.connector.stop(request)
        if request.attempt is not None:
            self._cancel_live(request.attempt, why.message)
            self._release_attempt(request, request.attempt)
        self._forget(request)
        self._desk.count(f"requests_{why.code}")
        self._book.end(request.request_id)
        self._desk.emit(Failed(request.request_id, why.code, why.message, why.hint, why.trail))

    def _close(self, request: Request) -> None:
        """The stream of a finished answer has ended, or is ended here."""
        assert request.closing is not None
        request.step(RequestStep.CLOSE)
        self._desk.agenda.cancel(("attempt", request.closing, "closing"))
        del self._by_stream[request.closing]
        self._forget(request)

    def _forget(self, request: Request) -> None:
        for name in ("deadline", "retry", "next_dial"):
            self._desk.agenda.cancel(request.key(name))
        self._solicitor.leave(request)
        del self._requests[request.request_id]

    # --- timers ---

    def request_timer(self, request_id: RequestId, name: str) -> None:
        request = self._requests[request_id]
        match name:
            case "deadline":
                self._end(request, self._finder.why_late(request))
            case "retry":
                self._next(request)
            case "next_dial":
                self.connector.dial_another(request)
            case _:
                raise AssertionError(f"no such timer: {name}")

    def attempt_timer(self, stream: int, name: str) -> None:
        request = self._by_stream[stream]
        if name == "closing":
            self._desk.emit(ResetStream(stream, StreamCode.DONE))
            self._close(request)
        elif request.attempt is not None:
            self._apply(request, request.attempt, request.attempt.timer(name))
