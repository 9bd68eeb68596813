"""Chatter: I12 of what is asked and claimed on the topic, and I13 of what a Request gives away.

The law: a node asks the same not twice within half a second and keeps to the rate that receivers take; a
worker answers a Request once, and not at all when three others have claimed to be faster.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import Claim, Kind, NodeId, Request, RequestId
from llama_gossip.simulation.clock import Clock
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.reading import message_of

ROUND_GAP_MS = 500
REQUESTS_BURST, REQUESTS_PER_S = 10, 2
CLAIMS_BURST, CLAIMS_PER_S = 50, 5
FASTER_CLAIMS = 3

Life = tuple[int, int]  # place and life
Asked = tuple[Life, NodeId, RequestId]


class Chatter:
    def __init__(self, blame: Callable[[str, str], None], clock: Clock) -> None:
        self._blame = blame
        self._clock = clock
        self._asked_at: dict[tuple[Life, str, int, int, bytes | None], int] = {}
        self._sent: Counter[tuple[Life, Kind]] = Counter()
        self._since: dict[Life, int] = {}  # its first word
        self._open: Counter[Asked] = Counter()  # Requests that it has heard and not answered
        self._faster: defaultdict[Asked, dict[NodeId, int]] = defaultdict(dict)  # since the newest of these

    def said(self, node: Process, data: bytes) -> None:
        if data[2] not in (Kind.REQUEST, Kind.CLAIM):
            return
        life = (node.place, node.life)
        match message_of(data):
            case Request() as request:
                self._requested(node, life, request)
            case Claim() as claim:
                self._claimed(node, life, claim)
            case _:
                pass

    def heard(self, node: Process, data: bytes) -> None:
        """A message that its core has taken."""
        if data[2] not in (Kind.REQUEST, Kind.CLAIM):
            return
        life = (node.place, node.life)
        match message_of(data):
            case Request() as request:
                key = (life, request.requester, request.request_id)
                self._open[key] += 1
                self._faster.pop(key, None)
            case Claim() as claim:
                key = (life, claim.requester, claim.request_id)
                if key in self._open:
                    self._faster[key][claim.worker] = claim.est_ttft_ms
            case _:
                pass

    def _requested(self, node: Process, life: Life, request: Request) -> None:
        now_ms = self._clock.now_ms
        public = request.request_id if request.prompt is not None else None  # a question of its own
        question = (life, request.model, request.prompt_tokens, request.max_tokens, public)
        last_ms = self._asked_at.get(question)
        if last_ms is not None and now_ms - last_ms < ROUND_GAP_MS:
            self._blame("I12", f"{node.name} asks the same again after {now_ms - last_ms} ms")
        self._asked_at[question] = now_ms
        self._bound(node, life, Kind.REQUEST, REQUESTS_BURST, REQUESTS_PER_S)
        if request.prompt_tokens & (request.prompt_tokens - 1):
            self._blame("I13", f"{node.name} tells the exact length of a prompt: {request.prompt_tokens}")

    def _claimed(self, node: Process, life: Life, claim: Claim) -> None:
        self._bound(node, life, Kind.CLAIM, CLAIMS_BURST, CLAIMS_PER_S)
        key = (life, claim.requester, claim.request_id)
        if self._open[key] <= -self._is_asked_now(node):
            self._blame("I12", f"{node.name} claims what nobody has asked, or claims it twice")
        self._open[key] -= 1
        faster = sum(est_ttft_ms < claim.est_ttft_ms for est_ttft_ms in self._faster[key].values())
        if faster >= FASTER_CLAIMS:
            self._blame("I12", f"{node.name} claims although {faster} others are faster")

    @staticmethod
    def _is_asked_now(node: Process) -> bool:
        """An idle worker may answer in the event that brings the Request, before that is known as heard."""
        event = node.event  # whose bytes may be anybody's, and few
        return isinstance(event, ev.GossipReceived) and event.data[2:3] == bytes((Kind.REQUEST,))

    def _bound(self, node: Process, life: Life, kind: Kind, burst: int, per_s: int) -> None:
        now_ms = self._clock.now_ms
        since_ms = self._since.setdefault(life, now_ms)
        self._sent[life, kind] += 1
        if self._sent[life, kind] > burst + per_s * (now_ms - since_ms) / 1_000:
            self._blame("I12", f"{node.name} has sent {self._sent[life, kind]} messages of kind {kind.name}")
