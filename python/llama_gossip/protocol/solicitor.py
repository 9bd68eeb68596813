"""Solicitor: asks the topic who could serve what this node's requests wait for (PROTOCOL 4.2).

The law: one Request a round and question, never more of them than a receiver takes; a round ends 150 ms after
its first Claim and after 2 s at the latest, and the next one backs off from 0.5 s to 4 s. Nobody is asked on
behalf of a request that no longer waits.

    ask ─► Request ─► Claims … ─► close ─► the members look again ─► gap ─► Request …
"""

from __future__ import annotations

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.agenda import TimerKey
from llama_gossip.protocol.call import MAX_CALLS, Bid, Call, Question, question_of
from llama_gossip.protocol.codec import encode_payload
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import AddressHint, Broadcast
from llama_gossip.protocol.envelope import sign_envelope
from llama_gossip.protocol.limits import (
    ENVELOPE_OVERHEAD_BYTES,
    MAX_TOPIC_BYTES,
    MAX_U64,
    TOO_BIG_FOR_GOSSIP,
)
from llama_gossip.protocol.messages import Claim, Head, Kind, NodeId, RequestId
from llama_gossip.protocol.messages import Request as RequestMessage
from llama_gossip.protocol.ratelimit import SIGNER_RATES, Buckets
from llama_gossip.protocol.request import Request


class Solicitor:
    """Methods that may have news for requests return those: their owner lets them look again."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._calls: dict[Question, Call] = {}  # the longest unused first
        self._asked: dict[RequestId, Call] = {}
        self._numbers: dict[int, Call] = {}
        self._made = 0
        self._joined = False
        self._budget: Buckets[Kind] = Buckets(1)

    def __len__(self) -> int:
        return len(self._calls)

    def joined(self) -> None:
        self._joined = True

    # --- requests ---

    def ask(self, request: Request) -> None:
        """It waits: the next round is asked for it too, at once where that is not too often."""
        question = question_of(request)
        call = self._calls.get(question)
        if call is not None and request.request_id in call.members:
            self._resume(call)
            return
        self.leave(request)  # its question has changed
        call = call or self._new(question)
        if call is None:
            return
        request.call = call.number
        request.asking_since_ms = self._desk.now.mono_ms
        request.answered = False
        call.members[request.request_id] = request
        call.gap_ms = self._desk.timers.solicit_gap_ms
        self._resume(call, sooner=True)

    def leave(self, request: Request) -> None:
        """It has found somebody, or has ended."""
        call = None if request.call is None else self._numbers.get(request.call)
        request.call = None
        request.asking_since_ms = None
        if call is None:
            return
        call.members.pop(request.request_id, None)
        if call.members:
            return
        for name in ("close", "round"):
            self._desk.agenda.cancel(_key(call, name))
        if call.is_open:
            call.close(self._desk.now.mono_ms)

    def offers(self, request: Request) -> dict[NodeId, Bid]:
        """What was claimed for its question, once the round that drew it is over."""
        call = self._calls.get(question_of(request))
        if call is None:
            return {}
        call.expire(self._desk.now.mono_ms - self._desk.timers.claim_ttl_ms)
        return call.bids

    # --- rounds ---

    def _resume(self, call: Call, *, sooner: bool = False) -> None:
        """sooner: what was set for a longer gap is brought forward."""
        due = self._desk.agenda.due_of(_key(call, "round"))
        if call.is_open or (due is not None and not sooner):
            return
        now_ms = self._desk.now.mono_ms
        at = now_ms if call.closed_mono_ms is None else max(now_ms, call.closed_mono_ms + call.gap_ms)
        if at <= now_ms:
            self._begin(call)
        elif due is None or at < due:
            self._desk.agenda.set(_key(call, "round"), at)

    def _begin(self, call: Call) -> None:
        desk = self._desk
        if not self._joined or not call.members:
            return
        if not self._budget.take(Kind.REQUEST, SIGNER_RATES[Kind.REQUEST], desk.now.mono_ms):
            desk.after(_key(call, "round"), desk.timers.solicit_gap_ms)
            return
        desk.agenda.cancel(_key(call, "round"))
        lead = next(iter(call.members.values()))
        self._remember(call, lead.request_id)
        call.is_open = True
        message = request_message(desk, lead, desk.head())
        desk.emit(Broadcast(sign_envelope(message, desk.signer, desk.net_id)))
        desk.count("requests_sent")
        desk.after(_key(call, "close"), desk.timers.offer_latest_ms)

    def _close(self, call: Call) -> list[Request]:
        call.close(self._desk.now.mono_ms)
        self._desk.after(_key(call, "round"), call.gap_ms)
        call.gap_ms = min(2 * call.gap_ms, self._desk.timers.solicit_gap_max_ms)
        for member in call.members.values():
            member.answered = True
        return list(call.members.values())

    def timer(self, number: int, name: str) -> list[Request]:
        call = self._numbers[number]
        match name:
            case "close":
                return self._close(call)
            case "round":
                self._begin(call)
                return []
            case _:
                raise AssertionError(f"no such timer: {name}")

    # --- Claims ---

    def claimed(self, sender: NodeId, claim: Claim) -> list[Request]:
        desk, call = self._desk, self._asked.get(claim.request_id)
        if claim.requester != desk.own_id or call is None:
            desk.count("claims_for_others")
            return []
        first = call.is_open and not call.gathered
        if not call.take(sender, Bid(claim, desk.now.mono_ms)):
            desk.count("claims_dropped")
            return []
        desk.count("claims_taken")
        if claim.addresses:
            desk.emit(AddressHint(sender, claim.addresses))
        if call.is_open:
            if first:
                self._close_soon(call)
            return []
        return list(call.members.values())  # late, and good all the same

    def _close_soon(self, call: Call) -> None:
        soon = self._desk.now.mono_ms + self._desk.timers.offer_window_ms
        due = self._desk.agenda.due_of(_key(call, "close"))
        self._desk.agenda.set(_key(call, "close"), soon if due is None else min(due, soon))

    def left(self, sender: NodeId, order: tuple[int, int]) -> None:
        """It has said goodbye: what it had claimed before is void."""
        for call in self._calls.values():
            call.forget(sender, order)

    # --- the table ---

    def _new(self, question: Question) -> Call | None:
        """None: there are too many questions; the request waits for the roster alone."""
        if len(self._calls) >= MAX_CALLS and not self._forget_one():
            self._desk.count("questions_refused")
            return None
        self._made += 1
        call = Call(self._made, question, self._desk.timers.solicit_gap_ms)
        self._calls[question] = self._numbers[call.number] = call
        return call

    def _forget_one(self) -> bool:
        """The oldest that nobody waits for."""
        idle = next((call for call in self._calls.values() if not call.members), None)
        if idle is None:
            return False
        del self._calls[idle.question], self._numbers[idle.number]
        for request_id in idle.ids:
            if self._asked.get(request_id) is idle:
                del self._asked[request_id]
        return True

    def _remember(self, call: Call, request_id: RequestId) -> None:
        if request_id in call.ids:
            return
        if len(call.ids) == call.ids.maxlen and self._asked.get(call.ids[0]) is call:
            del self._asked[call.ids[0]]
        call.ids.append(request_id)
        self._asked[request_id] = call


def _key(call: Call, name: str) -> TimerKey:
    return ("call", call.number, name)


def request_message(desk: Desk, lead: Request, head: Head) -> RequestMessage:
    """What the topic is asked. Members read it: the prompt is not in it, nor its exact length, unless the
    request is public. The one place where a Request gets prompt and config."""
    question, submit = question_of(lead), lead.submit
    return RequestMessage(
        head=head,
        request_id=lead.request_id,
        model=question.model,
        prompt_tokens=question.prompt_tokens,
        max_tokens=question.max_tokens,
        priority=submit.priority,
        deadline_ms=max(1, lead.deadline_mono_ms - desk.now.mono_ms),
        requester=desk.own_id,
        prompt=submit.prompt if lead.public else None,
        config=submit.config if lead.public else None,
    )


def check_public(desk: Desk, request: Request) -> None:
    """Raises ProtocolError, code malformed or TOO_BIG_FOR_GOSSIP, for what the topic cannot carry."""
    if not request.public:
        return
    widest = Head(MAX_U64, MAX_U64, MAX_U64)
    size = len(encode_payload(request_message(desk, request, widest))) + ENVELOPE_OVERHEAD_BYTES
    if size > MAX_TOPIC_BYTES:
        message = f"a public request of {size} bytes is too long for the topic (at most {MAX_TOPIC_BYTES})"
        raise ProtocolError(message, hint="shorten the prompt, or ask privately", code=TOO_BIG_FOR_GOSSIP)
